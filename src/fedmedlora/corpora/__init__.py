"""Corpora: readers, writers, splits, summaries and the artificial hospitals."""
