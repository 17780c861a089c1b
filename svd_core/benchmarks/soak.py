"""Soak test: `python -m svd_core.benchmarks soak`. Constant clients, a server killed at random.

It runs without a model. It counts the outcome of every job that was accepted: none may be lost,
and none with a picture may fail. No photo may be left without a job. Memory has a target only after
a quiet time of an hour or more, since the process is still warming up before that. It is compared
with that of the first sixth of the quiet time.
"""

import argparse
import json
import random
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from svd_core.benchmarks.load_clients import QUEUE, submit_body
from svd_core.benchmarks.server_process import STUB_SERVER, Server, running_server
from svd_core.benchmarks.targets import Figures, Target, make_parser, report
from svd_core.database import Database
from svd_core.errors import InvalidImage
from svd_core.events import Failed, Progress, Stopped, Succeeded
from svd_core.jobs import JobTable
from svd_core.jobs.schema import Row

CLIENTS = 8
CANCELS, WRONG = 0.15, 0.1
"""Shares of the submits that are cancelled, and that carry no picture."""

TARGETS = (
    Target("lost", "accepted jobs or their videos are lost", 0, ""),
    Target("not_ended", "jobs have not ended", 0, ""),
    Target("failed_otherwise", "jobs with a picture failed", 0, ""),
    Target("photos_left", "photos have no job", 0, ""),
    Target("memory_percent", "memory grew by", 2, "%"),
)

WARM_MINUTES = 60.0

END_S = 300.0
"""Seconds within which the last jobs must end."""

PHOTOS_LEFT = """
SELECT count(*) FROM svd_photos
WHERE NOT EXISTS (SELECT 1 FROM svd_jobs WHERE svd_jobs.image = svd_photos.name)
"""


@dataclass
class Ledger:
    """State shared by the clients. `accepted`: ids of the jobs that the server accepted."""

    server: Server
    accepted: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    stop: threading.Event = field(default_factory=threading.Event)


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("soak", __doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="minutes in all")
    parser.add_argument("--quiet", type=float, default=0.3, help="share of them without kills")
    parser.add_argument("--kills", type=int, default=30, help="kills at random moments of the rest")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        figures = _soak(options, Path(folder))
    warm = options.minutes * options.quiet >= WARM_MINUTES
    others = [f"{name:<24}{figure}" for name, figure in figures.items()]
    return report(TARGETS if warm else TARGETS[:-1], figures, options.check, others)


def _soak(options: argparse.Namespace, folder: Path) -> Figures:
    seconds = options.minutes * 60
    bodies = submit_body(), submit_body(b"no photo")
    memory: list[float] = []
    for kill in range(options.kills + 1):
        with running_server(*STUB_SERVER, folder=folder) as server:
            if kill == 0:
                ledger = Ledger(server)
                threads = [
                    threading.Thread(target=_client, args=(ledger, bodies, number), daemon=True)
                    for number in range(CLIENTS)
                ]
                for thread in threads:
                    thread.start()
                memory = _record_memory(server, seconds * options.quiet)
            ledger.server = server
            if kill < options.kills:
                span = seconds * (1 - options.quiet) / options.kills
                time.sleep(random.uniform(0, 2 * span))  # noqa: S311 - no secret
                server.process.kill()
                server.process.wait()
                continue
            ledger.stop.set()
            for thread in threads:
                thread.join()
            rows, photos_left = _ended(folder, ledger)
    ends = [row.record[-1].event for row in rows]
    videos = [end.video.path for end in ends if isinstance(end, Succeeded)]
    errors = [end.error for end in ends if isinstance(end, Failed)]
    early, late = median(memory[8:13]), median(memory[-5:])
    return {
        "minutes": options.minutes,
        "kills": options.kills,
        "accepted": len(ledger.accepted),
        "lost": len(ledger.accepted) - len(rows) + sum(not path.is_file() for path in videos),
        "not_ended": sum(isinstance(end, Progress) for end in ends),
        "made": len(videos),
        "stopped": sum(isinstance(end, Stopped) for end in ends),
        "failed": len(errors),
        "failed_otherwise": sum(not isinstance(error, InvalidImage) for error in errors),
        "begun_again": sum(row.attempt > 1 for row in rows),
        "most_attempts": max((row.attempt for row in rows), default=0),
        "photos_left": photos_left,
        "unfinished_files": sum(path.suffix == ".part" for path in folder.rglob("*")),
        "answers": dict(sorted(ledger.answers.items())),
        "memory_mb": late,
        "memory_percent": 100 * (late / early - 1),
    }


def _record_memory(server: Server, seconds: float) -> list[float]:
    """Megabytes of the server, sixty times within `seconds`."""
    megabytes = []
    for _ in range(60):
        time.sleep(seconds / 60)
        megabytes.append(server.memory_mb())
    return megabytes


def _client(ledger: Ledger, bodies: tuple[bytes, bytes], number: int) -> None:
    draw = random.Random(number)  # noqa: S311 - no secret
    while not ledger.stop.wait(draw.uniform(0.05, 0.3)):
        reply = _ask(ledger, "POST", QUEUE, bodies[draw.random() < WRONG])
        if reply is not None:
            ledger.accepted.append(reply["request_id"])
            if draw.random() < CANCELS:
                _ask(ledger, "PUT", f"{QUEUE}/requests/{reply['request_id']}/cancel")
        if ledger.accepted:
            job = draw.choice(ledger.accepted[-200:])
            _ask(ledger, "GET", f"{QUEUE}/requests/{job}/status")


def _ask(ledger: Ledger, method: str, path: str, body: bytes = b"") -> Any:
    """JSON of a response; None for an error status and for a server that is down."""
    headers = {"Content-Type": "application/json"}
    status, content = ledger.server.request(path, body, headers, method)
    ledger.answers[f"{method} {status or 'down'}"] += 1
    return json.loads(content) if 0 < status < 400 else None


def _ended(folder: Path, ledger: Ledger) -> tuple[list[Row], int]:
    """Rows of all accepted jobs, once all are finished, and the number of photos left behind."""
    table = JobTable(Database(f"sqlite:///{folder / 'jobs.sqlite'}"))
    until = time.monotonic() + END_S
    while table.open_jobs() and time.monotonic() < until:
        time.sleep(0.2)
    rows = []
    for start in range(0, len(ledger.accepted), 500):
        rows += table.get_many(ledger.accepted[start : start + 500])
    table.database.close()
    with closing(sqlite3.connect(folder / "jobs.sqlite")) as connection:
        left: int = connection.execute(PHOTOS_LEFT).fetchone()[0]
    return rows, left
