"""Prompt formats: render and parse side by side."""
