"""Run a benchmark: the cost of a video, or the named one, such as `api` or `contest`.

Exit code 2: it could not measure, for the reason on stderr.
"""

import sys
from importlib import import_module

from svd_core.errors import SvdError

BENCHMARKS = {
    "api": "api_load",
    "cluster": "cluster.command",
    "contest": "vs_diffusers.contest",
    "extras": "media_ops",
    "gpu": "gpu.command",
    "hostile": "hostile",
    "interpolation": "interpolation",
    "page": "page",
    "plans": "memory_plans",
    "soak": "soak",
}
"""Module of each benchmark by its name on the command line, with or without dashes. They are
imported on demand, since some import torch, which takes seconds."""


def main(argv: list[str]) -> int:
    name, rest = "".join(argv[:1]).removeprefix("--"), argv[1:]
    if name not in BENCHMARKS:
        name, rest = "", argv
    module = import_module(f"svd_core.benchmarks.{BENCHMARKS.get(name, 'generate')}")
    try:
        code: int = module.main(rest)
    except SvdError as error:
        print(error.message, file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
