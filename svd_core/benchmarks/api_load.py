"""Load test of the HTTP API: `python -m svd_core.benchmarks api`. A table, then a line of JSON.

Two servers run `app.py`, one on an empty job table and one on a table of finished jobs. In turn
each makes the same clip twice: undisturbed, and while many clients poll its status and one keeps
submitting. Figures are medians of several such rounds, since other programs use the processors too.
Memory is measured on a third server, which has no model. The finished jobs are copies of one.
"""

import argparse
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from svd_core.benchmarks.load_clients import LoadTiming, run_jobs, submit_body, time_video
from svd_core.benchmarks.server_process import STUB_SERVER, running_server
from svd_core.benchmarks.targets import Figures, Target, make_parser, report
from svd_core.checkpoints.table import DEMO_MODEL

TARGETS = (
    Target("submit_p95_ms", "submit, p95", 100, "ms"),
    Target("status_p95_ms", "status, p95", 50, "ms"),
    Target("slowed_percent", "a polled clip takes longer by", 10, "%"),
    Target("cpu_percent", "  requests and responses, of the machine", 10, "%"),
    Target("past_submit_percent", "with finished jobs: submit, p95, more", 20, "%"),
    Target("past_status_percent", "with finished jobs: status, p95, more", 20, "%"),
    Target("past_clip_percent", "with finished jobs: polled clip, longer", 20, "%"),
    Target("memory_percent", "memory grows over all jobs", 5, "%"),
)


@dataclass
class LoadRounds:
    """Clips of one server, one of each kind per round: undisturbed, and polled by clients."""

    quiet: list[LoadTiming] = field(default_factory=list)
    polled: list[LoadTiming] = field(default_factory=list)


def overhead_share(polled: LoadTiming, quiet: LoadTiming) -> float:
    """Share of all processors that requests and responses took.

    Unlike times, it is the same on a busy machine, where a clip takes longer and is polled more.
    """
    return (polled.cpu_s - quiet.cpu_s) / (polled.seconds * (os.cpu_count() or 1))


def figures(fresh: LoadRounds, aged: LoadRounds) -> Figures:
    """Medians over rounds. Compared values are of one round, so that other load affects both."""

    def more_percent(figure: str, here: list[LoadTiming], there: list[LoadTiming]) -> float:
        pairs = zip(here, there, strict=True)
        ratios: list[float] = [getattr(a, figure) / getattr(b, figure) for a, b in pairs]
        return 100 * (median(ratios) - 1)

    polled = (*fresh.polled, *aged.polled)
    return {
        "submit_p95_ms": median(clip.submit_ms for clip in fresh.polled),
        "status_p95_ms": median(clip.status_ms for clip in fresh.polled),
        "slowed_percent": more_percent("seconds", fresh.polled, fresh.quiet),
        "cpu_percent": 100 * median(map(overhead_share, fresh.polled, fresh.quiet)),
        "past_submit_percent": more_percent("submit_ms", aged.polled, fresh.polled),
        "past_status_percent": more_percent("status_ms", aged.polled, fresh.polled),
        "past_clip_percent": more_percent("seconds", aged.polled, fresh.polled),
        "clip_s": median(clip.seconds for clip in fresh.quiet),
        "polls": sum(len(clip.polls) for clip in polled),
        "submits": sum(len(clip.submits) for clip in polled),
    }


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
    parser = make_parser("api", __doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of four clips each")
    parser.add_argument("--clients", type=int, default=20, help="clients that poll every 100 ms")
    parser.add_argument("--past", type=int, default=10_000, help="finished jobs in the old table")
    parser.add_argument("--jobs", type=int, default=1_000, help="jobs that memory is measured over")
    parser.add_argument("--still", action="store_true", help="without a model")
    options = parser.parse_args(argv)
    body = submit_body()
    settings = {name: getattr(options, name) for name in ("rounds", "clients", "past", "jobs")}
    results = {**_latencies(options, body), **_memory(options, body), **settings}
    return report(TARGETS, results, options.check)


def _latencies(options: argparse.Namespace, body: bytes) -> Figures:
    program = STUB_SERVER if options.still else ()
    with running_server(*program) as new, running_server(*program) as old:
        for server in (new, old):
            time_video(server, body)  # warm-up
        copy_first_job(old.folder / "jobs.sqlite", options.past)
        fresh, aged = LoadRounds(), LoadRounds()
        for number in range(options.rounds):
            order = 1 if number % 2 else -1
            for server, rounds in [(new, fresh), (old, aged)][::order]:
                for clients, clips in [(0, rounds.quiet), (options.clients, rounds.polled)][
                    ::order
                ]:
                    clips.append(time_video(server, body, clients))
    return {"model": "still" if options.still else DEMO_MODEL, **figures(fresh, aged)}


def _memory(options: argparse.Namespace, body: bytes) -> Figures:
    """Megabytes of a server before and after the jobs."""
    with running_server(*STUB_SERVER) as server:
        run_jobs(server.port, body, min(WARM_UP, options.jobs), clients=4)
        before = server.memory_mb()
        run_jobs(server.port, body, options.jobs, clients=4)
        after = server.memory_mb()
    growth = 100 * (after / before - 1)
    return {"memory_mb": before, "memory_after_mb": after, "memory_percent": growth}
