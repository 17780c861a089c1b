"""`python -m svd_core.benchmarks`: each measurement a module, ending in one line of JSON."""
