"""Targets of a benchmark: the limits of its figures, its table, its line of JSON, its exit code."""

import argparse
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Figures = Mapping[str, Any]
"""Measured values by name."""


class Target(NamedTuple):
    """Limit of a figure: the highest value allowed, or the lowest with `at_least`."""

    figure: str
    label: str
    limit: float
    unit: str
    at_least: bool = False

    def is_met(self, figures: Figures) -> bool:
        value = figures[self.figure]
        return bool(value >= self.limit if self.at_least else value <= self.limit)


def missed(targets: Iterable[Target], figures: Figures) -> list[str]:
    """Names of the measured figures that miss their target."""
    return [t.figure for t in targets if t.figure in figures and not t.is_met(figures)]


def table(targets: Iterable[Target], figures: Figures) -> list[str]:
    """A line for each measured figure: its value, its limit, and whether the limit holds."""
    lines = []
    for target in targets:
        if target.figure in figures:
            value = f"{figures[target.figure]:8.1f} {target.unit:2}"
            bound = "at least" if target.at_least else "at most"
            verdict = "holds" if target.is_met(figures) else "missed"
            limit = f"{bound} {target.limit:3g} {target.unit:2}"
            lines.append(f"{target.label:48} {value}  {limit}  {verdict}")
    return lines


def make_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Command line of the benchmark `name`, which has targets."""
    prog = f"python -m svd_core.benchmarks {name}"
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    return parser


def report(
    targets: Sequence[Target], figures: Figures, check: bool, notes: Iterable[str] = ()
) -> int:
    """Print the table, `notes` and the line of JSON. Returns 1 for `check` with a missed target."""
    print(*table(targets, figures), *notes, sep="\n")
    print_json(figures)
    return int(check and bool(missed(targets, figures)))


def print_json(figures: Figures) -> None:
    """Print the last line of a benchmark, which is for programs."""
    print(json.dumps({**figures, "load_average": os.getloadavg()[0]}))


def p95(values: Sequence[float]) -> float:
    """95th percentile: the largest of the values that up to one in twenty may exceed."""
    return float(np.percentile(values, 95, method="lower"))
