"""Training of `svd-nano`, the small SVD checkpoint that comes with the project.

The app never imports this package; what it makes is a normal diffusers checkpoint folder.
"""
