"""Run a benchmark: what a video costs, or the one that is named, such as `api` or `contest`."""

import sys
from importlib import import_module

OTHERS = ("api", "contest", "extras", "gpu", "interpolation", "plans", "soak")
"""Modules of that name, asked for with or without dashes; some bring torch, which takes seconds."""

if __name__ == "__main__":
    name, rest = "".join(sys.argv[1:2]).removeprefix("--"), sys.argv[2:]
    if name in OTHERS:
        sys.exit(import_module(f"svd_core.bench.{name}").main(rest))
    sys.exit(import_module("svd_core.bench.video").main())
