"""Stopwatch: stage times of one video from its progress events."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from svd_core.events import Progress, Stage


@dataclass(frozen=True)
class VideoTiming:
    """One video. Seconds from the request to the mp4, to the first report, per stage, per step, and
    of all processors together, the video encoder's included."""

    seconds: float
    first_event_s: float
    step_s: float
    cpu_s: float
    stages: dict[str, float]


@dataclass
class Stopwatch:
    """Writes down when each report came."""

    started: float = field(default_factory=time.perf_counter)
    events: list[tuple[float, Progress]] = field(default_factory=list)

    def __call__(self, progress: Progress) -> None:
        self.events.append((time.perf_counter() - self.started, progress))

    def stages(self, end: float) -> dict[str, float]:
        """Seconds per stage; a stage lasts until the next one's first report."""
        ends = [at for at, _ in self.events[1:]] + [end]
        found: dict[str, float] = {}
        for (at, progress), until in zip(self.events, ends, strict=True):
            found[progress.stage] = found.get(progress.stage, 0.0) + until - at
        return found

    def step_s(self) -> float:
        """Seconds per denoising step; 0 where fewer than two reports tell."""
        steps = [(at, p.step) for at, p in self.events if p.stage is Stage.DENOISING]
        (begun, first), (ended, last) = (steps[0], steps[-1]) if steps else ((0, 0), (0, 0))
        return (ended - begun) / (last - first) if last > first else 0.0


def medians(runs: Sequence[VideoTiming]) -> dict[str, Any]:
    """Each figure's own median, so that stages need not add up to `seconds` exactly."""
    rows = [asdict(run) for run in runs]
    stages = [row.pop("stages") for row in rows]
    found: dict[str, Any] = {name: median(row[name] for row in rows) for name in rows[0]}
    return found | {"stages": {name: median(s[name] for s in stages) for name in stages[0]}}
