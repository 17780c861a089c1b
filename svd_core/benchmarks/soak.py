"""Soak test: `python -m svd_core.benchmarks soak`. Constant clients, a server killed at random.

It runs without a model. It counts the outcome of every job that was accepted: none may be lost,
and none with a picture may fail. With `--check` the exit code is 1 where one was lost or failed,
or where a photo is left that no job refers to. After a quiet time of an hour or more it is also 1
where memory grew by more than 2 % since its first sixth; before that the process is still warming
up.
"""

import argparse
import json
import random
import sqlite3
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svd_core.benchmarks.load_clients import QUEUE, submit_body
from svd_core.benchmarks.server_process import STUB_SERVER, Server, running_server
from svd_core.checkpoints.table import ASSETS, DEMO_MODEL
from svd_core.database import Database
from svd_core.errors import InvalidImage, SvdError, ToolFailed
from svd_core.events import Failed, Progress, Stopped, Succeeded
from svd_core.jobs import JobTable
from svd_core.jobs.schema import Row

CLIENTS = 8
CANCELS, WRONG = 0.15, 0.1
"""Shares of the submits that are cancelled, and that carry no picture."""

GROWTH = 2.0
"""Largest growth of memory in per cent."""

WARM_MINUTES = 60.0

END_S = 300.0

PHOTOS_LEFT = """
SELECT count(*) FROM svd_photos
WHERE NOT EXISTS (SELECT 1 FROM svd_jobs WHERE svd_jobs.image = svd_photos.name)
"""


@dataclass
class Ledger:
    """State shared by the clients. `accepted`: ids of the jobs that the server accepted."""

    port: int = 0
    accepted: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    stop: threading.Event = field(default_factory=threading.Event)


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            figures = _soak(options, Path(folder))
    except SvdError as error:
        print(error.message, file=sys.stderr)
        return 1
    for name, figure in figures.items():
        print(f"{name:<24}{figure}")
    print(json.dumps(figures))
    wrong = sum(figures[name] for name in ("lost", "not_ended", "failed_otherwise", "photos_left"))
    warm = options.minutes * options.quiet >= WARM_MINUTES
    return int(options.check and (wrong > 0 or (warm and figures["memory_percent"] > GROWTH)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m svd_core.benchmarks soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="in all")
    parser.add_argument("--quiet", type=float, default=0.3, help="part of it without kills")
    parser.add_argument("--kills", type=int, default=30, help="in the rest, at random moments")
    parser.add_argument("--check", action="store_true", help="exit by what was found")
    return parser


def _soak(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    ledger, seconds = Ledger(), options.minutes * 60
    photo = min((ASSETS / "examples").glob("*.jpg")).read_bytes()
    bodies = submit_body(photo), submit_body(b"no photo")
    threads = [
        threading.Thread(target=_client, args=(ledger, bodies, number), daemon=True)
        for number in range(CLIENTS)
    ]
    memory: list[float] = []
    for kill in range(options.kills + 1):
        with running_server(folder, *STUB_SERVER, model=DEMO_MODEL) as server:
            _await(server)
            ledger.port = server.port
            if kill == 0:
                for thread in threads:
                    thread.start()
                memory = _record_memory(server, seconds * options.quiet)
            if kill < options.kills:
                span = seconds * (1 - options.quiet) / max(1, options.kills)
                time.sleep(random.uniform(0, 2 * span))  # noqa: S311 - no secret
                server.process.kill()
                server.process.wait()
                continue
            ledger.stop.set()
            for thread in threads:
                thread.join()
            rows, photos_left = _ended(folder, ledger)
    return _figures(options, folder, ledger, rows, photos_left, memory)


def _await(server: Server) -> None:
    if not server.answers("/fal/health", b'"ok"'):
        raise ToolFailed("The server did not start.")


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
        wrong = draw.random() < WRONG
        reply = _ask(ledger, "POST", QUEUE, bodies[wrong])
        if reply is not None:
            ledger.accepted.append(reply["request_id"])
            if draw.random() < CANCELS:
                _ask(ledger, "PUT", f"{QUEUE}/requests/{reply['request_id']}/cancel")
        if ledger.accepted:
            job = draw.choice(ledger.accepted[-200:])
            _ask(ledger, "GET", f"{QUEUE}/requests/{job}/status")


def _ask(ledger: Ledger, method: str, path: str, body: bytes | None = None) -> Any:
    """JSON of a response; None for an error status and for a server that is down."""
    request = urllib.request.Request(  # noqa: S310 - loopback
        f"http://127.0.0.1:{ledger.port}{path}", body, {"Content-Type": "application/json"},
        method=method,
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            payload = json.loads(answer.read())
            ledger.answers[f"{method} {answer.status}"] += 1
            return payload
    except urllib.error.HTTPError as error:
        ledger.answers[f"{method} {error.code}"] += 1
    except (OSError, ValueError):
        ledger.answers[f"{method} down"] += 1
    return None


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


def _figures(
    options: argparse.Namespace,
    folder: Path,
    ledger: Ledger,
    rows: list[Row],
    photos_left: int,
    memory: list[float],
) -> dict[str, Any]:
    ends = [row.record[-1].event for row in rows]
    made = [end for end in ends if isinstance(end, Succeeded)]
    early, late = sorted(memory[8:13]), sorted(memory[-5:])
    return {
        "minutes": options.minutes,
        "kills": options.kills,
        "accepted": len(ledger.accepted),
        "lost": len(ledger.accepted) - len(rows) + sum(not v.video.path.is_file() for v in made),
        "not_ended": sum(isinstance(end, Progress) for end in ends),
        "made": len(made),
        "stopped": sum(isinstance(end, Stopped) for end in ends),
        "failed": sum(isinstance(end, Failed) for end in ends),
        "failed_otherwise": sum(
            isinstance(end, Failed) and not isinstance(end.error, InvalidImage) for end in ends
        ),
        "begun_again": sum(row.attempt > 1 for row in rows),
        "most_attempts": max((row.attempt for row in rows), default=0),
        "photos_left": photos_left,
        "unfinished_files": sum(path.suffix == ".part" for path in folder.rglob("*")),
        "answers": dict(sorted(ledger.answers.items())),
        "memory_mb": late[len(late) // 2],
        "memory_percent": 100 * (late[len(late) // 2] / early[len(early) // 2] - 1),
    }
