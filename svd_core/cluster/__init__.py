"""GPU workers on other machines, as Ray actors. Only this package imports Ray.

`config` alone works without Ray: it checks the settings and prepares the environment.
"""
