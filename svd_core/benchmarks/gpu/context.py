"""What a part is given: device, sizes, time, and `case`, which keeps one failure from the next."""

import gc
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from svd_core.benchmarks.gpu.results import Recorder
from svd_core.benchmarks.gpu.timing import Timer
from svd_core.engine.pipeline_loader import is_out_of_memory
from svd_core.errors import OutOfMemory

LOST = ("illegal memory access", "device-side assert", "unspecified launch", "misaligned address")
"""In the text of CUDA errors after which nothing works in the same process."""

TRACEBACK_LINES = 8

Figures = Mapping[str, object]


class LostContext(Exception):
    """The CUDA context of this process is lost; its cases cannot go on."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """`tiny`: small shapes. `folder`: for results. `scratch`: for files that are thrown away.

    `deadline`: on `time.monotonic`; no case begins after it.
    """

    recorder: Recorder
    device: str
    tiny: bool
    folder: Path
    scratch: Path
    deadline: float

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """What models run in."""
        return torch.float16 if self.cuda else torch.float32

    @property
    def timer(self) -> Timer:
        return Timer(self.device)

    def remaining_s(self) -> float:
        return self.deadline - time.monotonic()

    def randn(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.randn(*shape, device=self.device, dtype=dtype or self.dtype)

    def case(self, name: str, measure: Callable[[], Figures], least_s: float = 0.0) -> bool:
        """Record what `measure` returns, or its error. Returns whether there was none.

        `least_s`: it is skipped if fewer seconds remain. Raises `LostContext`.
        """
        if self.remaining_s() < max(0.0, least_s):
            self.recorder.write(name, skipped=f"{max(0.0, self.remaining_s()):.0f} s are left")
            return False
        failure: Figures | None = None
        try:
            self.recorder.write(name, **measure())
        except Exception as error:  # noqa: BLE001  # kernels and compilers raise anything
            failure = error_row(error)
        if failure is not None:  # the error is gone by now, and the tensors it held on to
            self.recorder.write(name, **failure)
            gc.collect()
        if failure is not None and failure["kind"] == "lost context":
            raise LostContext
        self.timer.release()
        return failure is None


def error_row(error: Exception) -> dict[str, object]:
    """`failed`: class and message. `kind`: of error. `where`: last lines of the traceback."""
    text = str(error).strip() or type(error).__name__
    chain = " ".join(str(each) for each in _causes(error))
    lines = "".join(traceback.format_exception(error)).splitlines()
    kind = "error"
    if any(word in chain for word in LOST):
        kind = "lost context"
    elif isinstance(error, OutOfMemory) or is_out_of_memory(error):
        kind = "out of memory"
    return {
        "failed": f"{type(error).__name__}: {text}"[:400],
        "kind": kind,
        "where": [line.strip()[:200] for line in lines[-TRACEBACK_LINES:]],
    }


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and what it was raised from: sentences for users hide what CUDA said."""
    while error is not None:
        yield error
        error = error.__cause__
