"""Making `svd-nano`, the small SVD checkpoint the project ships: shape, photos, clips, training.

The app never imports this package; what it makes is a normal diffusers checkpoint folder.
"""
