"""What there is to learn from a GPU, in one command: `python -m svd_core.benchmarks gpu`.

Parts run one after another, each in a process of its own: `parts` lists them, `command` starts
them, `worker` is such a process. `context` is what a part is given.
"""

from svd_core.benchmarks.gpu.command import main

__all__ = ["main"]
