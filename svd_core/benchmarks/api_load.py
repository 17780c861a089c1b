"""Load test of the HTTP API: `python -m svd_core.benchmarks api`. A table, then a line of JSON.

Two servers run `app.py`, one on an empty job table and one on a table with a past. In turn each
makes the same clip twice: left alone, and while many clients ask how it goes and one submits again
and again. Medians of several such rounds are told, since other programs use the processors too.
Memory is watched on a third server, which has no model.

Each figure has a limit, see `TARGETS`. The past is many copies of one finished job.
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
from svd_core.benchmarks.server_process import Server, running_server
from svd_core.checkpoints.table import ASSETS, DEMO_MODEL
from svd_core.errors import GenerationFailed, SvdError

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


COPIES = """
WITH RECURSIVE past(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM past WHERE n < ?)
INSERT INTO svd_jobs
SELECT {columns} FROM past, (SELECT * FROM svd_jobs ORDER BY number LIMIT 1)
"""

OWN = {"id": "printf('%032x', n)", "number": "-n", "bytes": "0"}
"""What copies cannot share. The video is not theirs, so that it does not go with them."""


def copy_first_job(table: Path, count: int) -> None:
    """Copy the first job of SQLite's `table`, which has ended, `count` times. A server may use the
    table at the same time."""
    with closing(sqlite3.connect(table, timeout=30)) as connection, connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(svd_jobs)")]
        columns = ", ".join(OWN.get(name, name) for name in names)
        connection.execute(COPIES.format(columns=columns), [count])


WARM_UP = 250
"""Jobs until a server remembers as many as it ever will."""

STILL = ("-m", "svd_core.benchmarks.stub_server")


def main(argv: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(argv)
    body = submit_body(min((ASSETS / "examples").glob("*.jpg")))
    try:
        found = {**_latencies(asked, body), **_memory(asked, body)}
    except SvdError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(*table(found), sep="\n")
    told = {name: vars(asked)[name] for name in ("rounds", "clients", "past", "jobs")}
    print(json.dumps({**found, **told, "load_average": os.getloadavg()[0]}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m svd_core.benchmarks api", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of four clips each")
    parser.add_argument("--clients", type=int, default=20, help="who ask, each every 100 ms")
    parser.add_argument("--past", type=int, default=10_000, help="jobs that are over")
    parser.add_argument("--jobs", type=int, default=1_000, help="during which memory is watched")
    parser.add_argument("--still", action="store_true", help="without a model at all")
    return parser


def _latencies(asked: argparse.Namespace, body: bytes) -> Figures:
    program = STILL if asked.still else ()
    with _server(*program) as new, _server(*program) as old:
        for server in (new, old):
            time_video(server, body)  # the first one pays for what all share
        copy_first_job(old.folder / "jobs.sqlite", asked.past)
        fresh, aged = LoadRounds(), LoadRounds()
        for number in range(asked.rounds):
            pair = [(new, fresh), (old, aged)]
            for server, rounds in pair if number % 2 else reversed(pair):
                both = [(0, rounds.quiet), (asked.clients, rounds.asked)]
                for clients, clips in both if number % 2 else reversed(both):
                    clips.append(time_video(server, body, clients))
    return {"model": "still" if asked.still else DEMO_MODEL, **figures(fresh, aged)}


def _memory(asked: argparse.Namespace, body: bytes) -> Figures:
    """Megabytes of a server before and after so many jobs."""
    with _server(*STILL) as server:
        run_jobs(server.port, body, min(WARM_UP, asked.jobs), clients=4)
        before = server.memory_mb()
        run_jobs(server.port, body, asked.jobs, clients=4)
        after = server.memory_mb()
    growth = 100 * (after / before - 1)
    return {"memory_mb": before, "memory_after_mb": after, "memory_percent": growth}


@contextmanager
def _server(*program: str) -> Iterator[Server]:
    """One with an empty table, ready to make videos."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder), *program, model=DEMO_MODEL) as server,
    ):
        if not server.answers("/fal/health", b'"ok"'):
            raise GenerationFailed("The server that was to be measured did not start.")
        yield server
