"""Whole studies: arms by cohorts."""
