"""Load test of the HTTP API: `python -m svd_core.benchmarks api`. A table, then a line of JSON.

Two servers run `app.py`, one on an empty job table and one on a table with a past. In turn each
makes the same clip twice: left alone, and while many clients ask how it goes and one submits again
and again. Medians of several such rounds are told, since other programs use the processors too.
Memory is watched on a third server, which has no model.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from svd_core.benchmarks.load_clients import run_jobs, submit_body, time_video
from svd_core.benchmarks.load_report import Figures, LoadRounds, figures, table
from svd_core.benchmarks.seed_jobs import copy_first_job
from svd_core.benchmarks.server_process import Server, running_server
from svd_core.checkpoints.table import ASSETS, DEMO_MODEL
from svd_core.errors import GenerationFailed, SvdError

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
