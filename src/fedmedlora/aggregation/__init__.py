"""Strategies: how site updates become one adapter."""
