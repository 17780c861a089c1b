"""Command line: `python -m svd_core`."""
