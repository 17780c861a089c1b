"""Seconds, peak memory and errors of work on a device that computes asynchronously."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

SHORT_S = 0.05
"""Work below it is timed many times in a row, by events of the GPU."""

PART = 2**24
"""Numbers that are compared at once in double precision."""

Work = Callable[[], object]


@dataclass(frozen=True)
class Timer:
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

    def seconds(self, work: Work, times: int = 5, most_s: float = 3.0) -> float:
        """Median of `times` after one to warm up; fewer where they would take over `most_s`."""
        self.once(work)
        first = max(self.once(work), 1e-6)
        times = max(1, min(times, int(most_s / first)))
        if self.cuda and first < SHORT_S:
            return median(self._in_a_row(work, first) for _ in range(times))
        return median([first, *(self.once(work) for _ in range(times - 1))])

    def _in_a_row(self, work: Work, first: float) -> float:
        count = max(3, min(50, int(0.1 / first)))
        event: Any = torch.cuda.Event
        begin, end = (event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(count):
            work()
        end.record()
        self.synchronize()
        return float(begin.elapsed_time(end)) / 1e3 / count

    def peak_gib(self, work: Work) -> float:
        """GiB that `work` allocates at most beside what is there; 0 without a GPU."""
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
        """Least seconds, of as many `times` as begin within `most_s`, and peak in GiB; of work that
        is warmed up already. The peak is taken last, since memory is allocated anew for it."""
        taken = [self.once(work)]
        while len(taken) < times and sum(taken) < most_s:
            taken.append(self.once(work))
        return min(taken), self.peak_gib(work)


def relative_error(found: Tensor, truth: Tensor) -> float:
    """Euclidean distance over the length of `truth`, in double precision, to four digits."""
    found, truth = found.flatten(), truth.flatten()
    apart = length = 0.0
    for start in range(0, len(truth), PART):
        one, other = (x[start : start + PART].double() for x in (found, truth))
        apart += float((one - other).square().sum())
        length += float(other.square().sum())
    return float(f"{(apart / max(length, 1e-30)) ** 0.5:.3e}")
