"""Extraction: notes in, entities out."""
