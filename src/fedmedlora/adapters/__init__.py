"""LoRA adapters as values, their files, and what may cross a site's wall."""
