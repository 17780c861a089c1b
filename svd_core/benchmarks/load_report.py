"""Report of the load test: figures, and the limit that each one is held to."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

from svd_core.benchmarks.load_clients import LoadTiming

Figures = Mapping[str, Any]


class Target(NamedTuple):
    figure: str
    label: str
    limit: float
    unit: str


TARGETS = (
    Target("submit_p95_ms", "submit, p95", 100, "ms"),
    Target("status_p95_ms", "status, p95", 50, "ms"),
    Target("slowed_percent", "a clip that is asked about takes longer", 10, "%"),
    Target("cpu_percent", "  asking and answering takes of the machine", 10, "%"),
    Target("past_submit_percent", "with a past: submit, p95, more", 20, "%"),
    Target("past_status_percent", "with a past: status, p95, more", 20, "%"),
    Target("past_clip_percent", "with a past: clip asked about, longer", 20, "%"),
    Target("memory_percent", "memory grows over all jobs", 5, "%"),
)


@dataclass
class LoadRounds:
    """The clips of one server, one of each kind in every round: left alone, and asked about."""

    quiet: list[LoadTiming] = field(default_factory=list)
    asked: list[LoadTiming] = field(default_factory=list)

    def median_of(self, figure: Callable[[LoadTiming], float]) -> float:
        return median(map(figure, self.asked))


def status_ms(clip: LoadTiming) -> float:
    return 1000 * p95(clip.polls)


def submit_ms(clip: LoadTiming) -> float:
    return 1000 * p95(clip.submits)


def seconds(clip: LoadTiming) -> float:
    return clip.seconds


def overhead_share(asked: LoadTiming, quiet: LoadTiming) -> float:
    """Share of all processors that went into asking and answering. Unlike times it is the same on a
    machine that has other things to do, where a clip takes longer and more is asked about it."""
    return (asked.cpu_s - quiet.cpu_s) / (asked.seconds * (os.cpu_count() or 1))


def p95(values: list[float]) -> float:
    """What 95 of 100 do not exceed."""
    return sorted(values)[int((len(values) - 1) * 0.95)]


def figures(fresh: LoadRounds, aged: LoadRounds) -> Figures:
    """Medians over rounds. What is compared comes from the same round, so that what else goes on
    on the machine meets both alike."""

    def more(
        figure: Callable[[LoadTiming], float], here: list[LoadTiming], there: list[LoadTiming]
    ) -> float:
        return 100 * (median(figure(a) / figure(b) for a, b in zip(here, there, strict=True)) - 1)

    return {
        "submit_p95_ms": fresh.median_of(submit_ms),
        "status_p95_ms": fresh.median_of(status_ms),
        "slowed_percent": more(seconds, fresh.asked, fresh.quiet),
        "cpu_percent": 100 * median(map(overhead_share, fresh.asked, fresh.quiet)),
        "past_submit_percent": more(submit_ms, aged.asked, fresh.asked),
        "past_status_percent": more(status_ms, aged.asked, fresh.asked),
        "past_clip_percent": more(seconds, aged.asked, fresh.asked),
        "clip_s": median(map(seconds, fresh.quiet)),
        "polls": sum(len(clip.polls) for clip in (*fresh.asked, *aged.asked)),
        "submits": sum(len(clip.submits) for clip in (*fresh.asked, *aged.asked)),
    }


def table(found: Figures) -> list[str]:
    """A line for each target: what was measured, what was asked for, and whether it holds."""
    lines = []
    for figure, label, most, unit in TARGETS:
        verdict = "holds" if found[figure] <= most else "missed"
        value, limit = f"{found[figure]:8.1f} {unit:2}", f"at most {most:3g} {unit:2}"
        lines.append(f"{label:40} {value}  {limit}  {verdict}")
    return lines
