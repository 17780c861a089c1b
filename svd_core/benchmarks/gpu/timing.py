"""Timing on an asynchronous device: seconds, peak memory, relative errors, kernel profiles."""

import re
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils import benchmark

Work = Callable[[], object]


@dataclass(frozen=True)
class Timer:
    """Times and memory of work on `device`, which is synchronized around each measurement."""

    device: str

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def release(self) -> None:
        if self.cuda:
            torch.cuda.empty_cache()

    def once(self, work: Work) -> float:
        self.synchronize()
        begin = time.perf_counter()
        work()
        self.synchronize()
        return time.perf_counter() - begin

    def seconds(self, work: Work, budget_s: float = 0.2) -> float:
        """Median seconds of work that is warm. Short work is timed many times in a row."""
        self.once(work)
        threads = torch.get_num_threads()
        timer: Any = benchmark.Timer("work()", globals={"work": work}, num_threads=threads)
        return float(timer.blocked_autorange(min_run_time=budget_s).median)

    def peak_gib(self, work: Work) -> float:
        """Peak GiB that `work` allocates beside what is allocated already; 0 without a GPU."""
        if not self.cuda:
            work()
            return 0.0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        at_rest = torch.cuda.memory_allocated()
        work()
        self.synchronize()
        return round((torch.cuda.max_memory_allocated() - at_rest) / 2**30, 2)

    def cost(self, work: Work, times: int = 3, most_s: float = 1.0) -> tuple[float, float]:
        """Least seconds and peak GiB of work that is warm. At most `times` runs start in `most_s`.

        The peak is measured last, since memory is allocated again for it.
        """
        taken = [self.once(work)]
        while len(taken) < times and sum(taken) < most_s:
            taken.append(self.once(work))
        return min(taken), self.peak_gib(work)


def relative_error(output: Tensor, truth: Tensor) -> float:
    """Euclidean distance over the length of `truth`, in double precision, to four digits."""
    length = partial(torch.linalg.vector_norm, dtype=torch.float64)
    apart = length(output.float() - truth.float()) / length(truth.float()).clamp(min=1e-15)
    return float(f"{float(apart):.3e}")


KINDS = (
    ("to GPU", r"Memcpy HtoD"),
    ("from GPU", r"Memcpy DtoH"),
    ("attention", r"flash|fmha|sdpa|attention|cudnn_generated_fort"),
    (
        "norm",
        r"RowwiseMoments|Group_?Norm|Layer_?Norm|ComputeFusedParams|batch_norm|_moments|_apply_",
    ),
    ("layout", r"nchwToNhwc|nhwcToNchw|convertTensor|transpose"),
    ("convolution", r"fprop|conv|implicit|dgrad|xmma.*nhwc|winograd"),
    ("product", r"gemm|nvjet|cutlass|cublas|Kernel2"),
    ("concatenation", r"CatArray"),
    ("copy", r"copy|Memcpy|Memset"),
    ("pointwise", r"elementwise|vectorized|unrolled|lerp|gelu|silu|add|mul"),
)
"""Regular expressions of kernel names by kind; the first match counts."""

LONGEST = 45


def profile_kernels(timer: Timer, work: Work, name: str, folder: Path) -> dict[str, Any]:
    """Run `work` once under torch's profiler: milliseconds by kind of kernel, and idle time.

    The longest kernels are appended to `profile.txt` in `folder`. Without a GPU they are the CPU's.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if timer.cuda else [])]
    with profile(activities=activities) as profiler:
        wall_ms = 1e3 * timer.once(work)
    rows = sorted(_rows(profiler, timer.cuda), reverse=True)
    kinds: dict[str, float] = defaultdict(float)
    for ms, _, kind, _ in rows:
        kinds[kind] += ms
    busy_ms = sum(kinds.values())
    with (folder / "profile.txt").open("a", encoding="utf-8") as file:
        print(f"\n{name}", file=file)
        for ms, count, kind, key in rows[:LONGEST]:
            print(f"{ms:9.3f} ms {count:5d} x {kind:13} {key}", file=file)
    by_ms = sorted(kinds.items(), key=lambda item: -item[1])
    return {
        "ms": {kind: round(ms, 2) for kind, ms in by_ms},
        "busy_ms": round(busy_ms, 1),
        "idle_ms": round(max(0.0, wall_ms - busy_ms), 1),
        "kernels": sum(count for _, count, _, _ in rows),
    }


def kind_of(kernel: str) -> str:
    return next((kind for kind, form in KINDS if re.search(form, kernel, re.IGNORECASE)), "other")


def _rows(profiler: Any, cuda: bool) -> list[tuple[float, int, str, str]]:
    """(milliseconds, count, kind, name) of each kernel."""
    rows = []
    for event in profiler.key_averages():
        microseconds = event.self_device_time_total if cuda else event.self_cpu_time_total
        if microseconds > 0 and (not cuda or event.device_type.name == "CUDA"):
            kind = kind_of(event.key)
            rows.append((microseconds / 1e3, event.count, kind, event.key[:150]))
    return rows
