"""Run a benchmark: the cost of a video, or the one that is named, such as `api` or `contest`."""

import sys
from importlib import import_module

BENCHMARKS = {
    "api": "api_load",
    "cluster": "cluster",
    "contest": "vs_diffusers.contest",
    "extras": "media_ops",
    "gpu": "gpu",
    "hostile": "hostile",
    "interpolation": "interpolation",
    "page": "page",
    "plans": "memory_plans",
    "soak": "soak",
}
"""Module of each benchmark by its name on the command line, with or without dashes. They are
imported on demand, since some import torch, which takes seconds."""

if __name__ == "__main__":
    name, rest = "".join(sys.argv[1:2]).removeprefix("--"), sys.argv[2:]
    if name in BENCHMARKS:
        sys.exit(import_module(f"svd_core.benchmarks.{BENCHMARKS[name]}").main(rest))
    sys.exit(import_module("svd_core.benchmarks.generate").main())
