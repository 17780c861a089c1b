"""GPU benchmark: parts that run one after another, each in its own process.

`parts` lists them and runs one, `command` starts their processes, `context` is what a part uses.
"""
