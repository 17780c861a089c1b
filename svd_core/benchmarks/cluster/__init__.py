"""Cluster benchmark: real Ray nodes with pretended GPUs on loopback addresses of this machine."""
