"""Measurements: `python benchmarks/run.py NAME`. Every module beside `run` and `render` is one."""
