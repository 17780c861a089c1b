"""The command line, `python -m svd_core`."""
