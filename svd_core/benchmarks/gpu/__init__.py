"""GPU benchmark: `python -m svd_core.benchmarks gpu`.

Parts run one after another, each in a process of its own. `parts` lists them and runs one,
`command` starts their processes, `context` is what a part works with.
"""

from svd_core.benchmarks.gpu.command import main

__all__ = ["main"]
