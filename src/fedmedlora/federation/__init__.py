"""The round loop and its runtimes."""
