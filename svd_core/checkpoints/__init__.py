"""Checkpoints: which models there are, what they need, how long they take. Imports no torch."""
