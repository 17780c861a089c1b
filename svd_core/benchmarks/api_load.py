"""Load test of the HTTP API: `python -m svd_core.benchmarks api`. A table, then a line of JSON.

Two servers run `app.py`, one on an empty job table and one on a table with a past. In turn each
makes the same clip twice: left alone, and while many clients poll its status and one keeps
submitting. Figures are medians of several such rounds, since other programs use the processors too.
Memory is watched on a third server, which has no model.

Each figure has a limit, see `TARGETS`. With `--check` the exit code is 1 if one is missed. The past
is many copies of one finished job.
"""

import argparse
import json
import os
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from svd_core.benchmarks.load_clients import LoadTiming, run_jobs, submit_body, time_video
from svd_core.benchmarks.server_process import STUB_SERVER, Server, running_server
from svd_core.checkpoints.table import ASSETS, DEMO_MODEL
from svd_core.errors import SvdError, ToolFailed

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
    """Clips of one server, one of each kind per round: undisturbed, and polled by clients."""

    quiet: list[LoadTiming] = field(default_factory=list)
    polled: list[LoadTiming] = field(default_factory=list)

    def median_of(self, figure: Callable[[LoadTiming], float]) -> float:
        return median(map(figure, self.polled))


def status_ms(clip: LoadTiming) -> float:
    return 1000 * p95(clip.polls)


def submit_ms(clip: LoadTiming) -> float:
    return 1000 * p95(clip.submits)


def seconds(clip: LoadTiming) -> float:
    return clip.seconds


def overhead_share(polled: LoadTiming, quiet: LoadTiming) -> float:
    """Share of all processors that polling and answering took.

    Unlike times, it is the same on a busy machine, where a clip takes longer and is polled more.
    """
    return (polled.cpu_s - quiet.cpu_s) / (polled.seconds * (os.cpu_count() or 1))


def p95(values: list[float]) -> float:
    """95th percentile."""
    return sorted(values)[int((len(values) - 1) * 0.95)]


def figures(fresh: LoadRounds, aged: LoadRounds) -> Figures:
    """Medians over rounds. Compared values are of one round, so that other load affects both."""

    def more(
        figure: Callable[[LoadTiming], float], here: list[LoadTiming], there: list[LoadTiming]
    ) -> float:
        return 100 * (median(figure(a) / figure(b) for a, b in zip(here, there, strict=True)) - 1)

    return {
        "submit_p95_ms": fresh.median_of(submit_ms),
        "status_p95_ms": fresh.median_of(status_ms),
        "slowed_percent": more(seconds, fresh.polled, fresh.quiet),
        "cpu_percent": 100 * median(map(overhead_share, fresh.polled, fresh.quiet)),
        "past_submit_percent": more(submit_ms, aged.polled, fresh.polled),
        "past_status_percent": more(status_ms, aged.polled, fresh.polled),
        "past_clip_percent": more(seconds, aged.polled, fresh.polled),
        "clip_s": median(map(seconds, fresh.quiet)),
        "polls": sum(len(clip.polls) for clip in (*fresh.polled, *aged.polled)),
        "submits": sum(len(clip.submits) for clip in (*fresh.polled, *aged.polled)),
    }


def missed(results: Figures) -> list[str]:
    """Figures above their limits."""
    return [target.figure for target in TARGETS if results[target.figure] > target.limit]


def table(results: Figures) -> list[str]:
    """A line for each target: the measured value, the limit, and whether it holds."""
    lines = []
    for figure, label, most, unit in TARGETS:
        verdict = "missed" if figure in missed(results) else "holds"
        value, limit = f"{results[figure]:8.1f} {unit:2}", f"at most {most:3g} {unit:2}"
        lines.append(f"{label:40} {value}  {limit}  {verdict}")
    return lines


COPIES = """
WITH RECURSIVE past(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM past WHERE n < ?)
INSERT INTO svd_jobs
SELECT {columns} FROM past, (SELECT * FROM svd_jobs ORDER BY number LIMIT 1)
"""

COPY_COLUMNS = {"id": "printf('%032x', n)", "number": "-n", "bytes": "0"}
"""Columns that differ in copies. They do not own the video, so retention does not delete it."""


def copy_first_job(table: Path, count: int) -> None:
    """Copy the first job of SQLite's `table`, which is finished, `count` times.

    A server may use the table at the same time.
    """
    with closing(sqlite3.connect(table, timeout=30)) as connection, connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(svd_jobs)")]
        columns = ", ".join(COPY_COLUMNS.get(name, name) for name in names)
        connection.execute(COPIES.format(columns=columns), [count])


WARM_UP = 250
"""Jobs after which the caches of a server are full."""


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    body = submit_body(min((ASSETS / "examples").glob("*.jpg")).read_bytes())
    try:
        results = {**_latencies(options, body), **_memory(options, body)}
    except SvdError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(*table(results), sep="\n")
    settings = {name: vars(options)[name] for name in ("rounds", "clients", "past", "jobs")}
    print(json.dumps({**results, **settings, "load_average": os.getloadavg()[0]}))
    return int(options.check and bool(missed(results)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m svd_core.benchmarks api", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of four clips each")
    parser.add_argument("--clients", type=int, default=20, help="who ask, each every 100 ms")
    parser.add_argument("--past", type=int, default=10_000, help="jobs that are over")
    parser.add_argument("--jobs", type=int, default=1_000, help="during which memory is watched")
    parser.add_argument("--still", action="store_true", help="without a model at all")
    parser.add_argument("--check", action="store_true", help="exit by what was found")
    return parser


def _latencies(options: argparse.Namespace, body: bytes) -> Figures:
    program = STUB_SERVER if options.still else ()
    with _server(*program) as new, _server(*program) as old:
        for server in (new, old):
            time_video(server, body)  # warm-up
        copy_first_job(old.folder / "jobs.sqlite", options.past)
        fresh, aged = LoadRounds(), LoadRounds()
        for number in range(options.rounds):
            pair = [(new, fresh), (old, aged)]
            for server, rounds in pair if number % 2 else reversed(pair):
                both = [(0, rounds.quiet), (options.clients, rounds.polled)]
                for clients, clips in both if number % 2 else reversed(both):
                    clips.append(time_video(server, body, clients))
    return {"model": "still" if options.still else DEMO_MODEL, **figures(fresh, aged)}


def _memory(options: argparse.Namespace, body: bytes) -> Figures:
    """Megabytes of a server before and after the jobs."""
    with _server(*STUB_SERVER) as server:
        run_jobs(server.port, body, min(WARM_UP, options.jobs), clients=4)
        before = server.memory_mb()
        run_jobs(server.port, body, options.jobs, clients=4)
        after = server.memory_mb()
    growth = 100 * (after / before - 1)
    return {"memory_mb": before, "memory_after_mb": after, "memory_percent": growth}


@contextmanager
def _server(*program: str) -> Iterator[Server]:
    """Server with an empty table, ready to make videos."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder), *program, model=DEMO_MODEL) as server,
    ):
        if not server.answers("/fal/health", b'"ok"'):
            raise ToolFailed("The server that was to be measured did not start.")
        yield server
