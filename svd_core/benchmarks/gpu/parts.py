"""Parts of the GPU benchmark: their priority and time limits, and the process of one part.

The process finds the GPU, runs the part, and records how it ended. This module imports no torch.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from svd_core.benchmarks.gpu.results import Recorder
from svd_core.errors import ToolFailed

if TYPE_CHECKING:
    from svd_core.benchmarks.gpu.context import Context

LOST_CONTEXT, UNUSABLE = 3, 4
"""Exit codes of a part: the CUDA context was lost; no part can run on this machine."""


@dataclass(frozen=True)
class Part:
    """A part: function `run_<name>` of `module`, by default the module of that name.

    `limit_s`: time limit. `least_s`: with fewer seconds it is skipped.
    """

    name: str
    limit_s: float
    least_s: float
    about: str
    module: str = ""


PARTS = (
    Part("env", 60, 10, "machine, versions, peak rates, whether diffusers was tested"),
    Part("smoke", 90, 25, "a tiny model under every offload setting, compared with the CPU"),
    Part("clip", 125, 45, "whole clips through the engine: speeds, previews, offload", "clips"),
    Part("step", 115, 40, "a UNet step of SVD-XT: stock, ours, variants of ours", "components"),
    Part("decode", 85, 30, "decoding 25 frames: stock, ours, slices, layouts", "components"),
    Part("plans", 110, 40, "memory plans with the free memory of smaller cards", "clips"),
    Part("kernels", 80, 25, "attention, norms, convolutions and products at SVD-XT's shapes"),
    Part("compile", 160, 60, "compiled UNet and decoder: compilation and steps", "components"),
    Part("contest", 120, 50, "stock diffusers compared with ours, as in `contest`", "clips"),
)
"""All parts, in order of priority, in which they run."""

MARGIN_S = 6.0
"""Seconds of a budget for ending the last process and for the table."""


def select_parts(only: str, skip: str) -> list[Part]:
    """Select the parts of `only`, or all, without those of `skip`; both are comma separated names.

    Raises `ToolFailed` for an unknown name.
    """
    included, excluded = (
        {name.strip() for name in names.split(",") if name.strip()} for names in (only, skip)
    )
    known = [part.name for part in PARTS]
    unknown = sorted((included | excluded) - {*known})
    if unknown:
        raise ToolFailed(f"There is no part {', '.join(unknown)}; choose from {', '.join(known)}.")
    return [
        part for part in PARTS if part.name in (included or known) and part.name not in excluded
    ]


def time_limit(part: Part, remaining_s: float, limited: bool = True) -> float | None:
    """Seconds that `part` may take of the remaining ones; None if too few remain.

    `limited`: by the limit of the part as well, which is meant for a GPU.
    """
    usable = remaining_s - MARGIN_S
    if usable < part.least_s:
        return None
    return min(part.limit_s, usable) if limited else usable


RESERVE_S = 3.0
"""Seconds at the end of the time limit in which no case begins."""

NO_GPU = "There is no CUDA GPU here that this torch can use; add --tiny to try the parts on a CPU."
GPU_IDLE = "The GPU was idle: the part never allocated memory on it."


def load_part(name: str) -> Callable[["Context"], None]:
    """Import the function of part `name`."""
    modules = {part.name: part.module for part in PARTS}
    module = import_module(f"svd_core.benchmarks.gpu.{modules.get(name) or name}")
    run: Callable[[Context], None] = getattr(module, f"run_{name}")
    return run


def run_part(part: str, out: Path, scratch: Path | None, limit_s: float | None, tiny: bool) -> int:
    """Run `part`. Returns its exit code; what fails inside it is a row of the results."""
    deadline = time.monotonic() + (limit_s or 1e9) - RESERVE_S
    recorder = Recorder(out, part)
    try:
        import torch

        from svd_core.benchmarks.gpu.context import Context, LostContext, error_row

        run = load_part(part)
    except Exception as error:  # noqa: BLE001  # diffusers makes other errors of an ImportError
        text = " ".join(str(error).split())
        recorder.write("imports", failed=f"{type(error).__name__}: {text}"[:600])
        return UNUSABLE
    if not (torch.cuda.is_available() or tiny):
        recorder.write("device", failed=NO_GPU)
        return UNUSABLE
    torch.set_grad_enabled(False)
    context = Context(
        recorder=recorder,
        device="cuda" if torch.cuda.is_available() else "cpu",
        tiny=tiny,
        folder=out,
        scratch=scratch or Path(os.environ.get("TMPDIR") or "/tmp"),  # noqa: S108
        deadline=deadline,
    )
    try:
        run(context)
    except LostContext:
        return LOST_CONTEXT
    except Exception as error:  # noqa: BLE001  # outside of a case: only this part ends
        recorder.write("part", **error_row(error))
    if context.cuda and not torch.cuda.memory_stats().get("allocation.all.allocated"):
        recorder.write("device", failed=GPU_IDLE)
    recorder.write("end")
    return 0
