"""The run directory: written once, read back whole."""
