"""The process of one part: finds the GPU, runs the part's module, and records how that ended."""

import os
import time
from importlib import import_module
from pathlib import Path

from svd_core.benchmarks.gpu.results import Recorder
from svd_core.benchmarks.gpu.supervisor import LOST_CONTEXT, UNUSABLE

RESERVE_S = 3.0
"""Of the time limit; no case begins in it."""

NO_GPU = "There is no CUDA GPU here that this torch can use; add --tiny to try the parts on a CPU."
IDLE = "The GPU was idle: the part never allocated memory on it."


def work(part: str, out: Path, scratch: Path | None, limit_s: float | None, tiny: bool) -> int:
    """Run `part`. Returns its exit code; what fails inside it is a row of the results."""
    deadline = time.monotonic() + (limit_s or 1e9) - RESERVE_S
    recorder = Recorder(out, part)
    try:
        import torch

        from svd_core.benchmarks.gpu.context import Context, LostContext, error_row

        module = import_module(f"svd_core.benchmarks.gpu.{part}")
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
        module.run(context)
    except LostContext:
        return LOST_CONTEXT
    except Exception as error:  # noqa: BLE001  # outside of its cases: the part ends, others follow
        recorder.write("part", **error_row(error))
    if context.cuda and not torch.cuda.memory_stats().get("allocation.all.allocated"):
        recorder.write("device", failed=IDLE)
    recorder.write("end")
    return 0
