"""`python -m svd_core.bench`: each measurement a module, ending in one line of JSON."""
