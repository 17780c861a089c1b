"""Inference optimizations: the same function of the weights in less time, switched one by one."""
