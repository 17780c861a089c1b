"""Comparison with stock diffusers: same weights, same inputs, time and numerical agreement."""
