"""Tiny models, generators and laws, for outsiders too."""
