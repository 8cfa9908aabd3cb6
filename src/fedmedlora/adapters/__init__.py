"""LoRA adapters as values: their state, their files, and all that crosses a site's wall."""
