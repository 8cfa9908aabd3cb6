"""Matching, scores and intervals."""
