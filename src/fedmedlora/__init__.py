"""Federated LoRA training of one language model across hospitals, for clinical extraction."""

__version__ = "0.1.0"
