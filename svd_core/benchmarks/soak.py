"""Soak test: `python -m svd_core.benchmarks soak`. Constant clients, a server killed at random.

It runs without a model. Counted is what became of every job that was accepted: none may be lost,
and none with a picture may fail. With `--check` the exit code is 1 where one was lost or failed,
or where photos were left behind. After a quiet time of an hour or more it is also 1 where memory
grew by more than 2 % since its first sixth; before that the process is still warming up.
"""

import argparse
import base64
import json
import random
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svd_core.benchmarks.api_load import STILL
from svd_core.benchmarks.server_process import Server, running_server
from svd_core.checkpoints.table import ASSETS, DEMO_MODEL
from svd_core.database import Database
from svd_core.errors import GenerationFailed, InvalidImage, SvdError
from svd_core.events import Failed, Progress, Stopped, Succeeded
from svd_core.jobs import JobTable
from svd_core.jobs.schema import Row

QUEUE = "/fal/queue/fal-ai/stable-video"
CLIENTS = 8
CANCELS, WRONG = 0.15, 0.1
"""Parts of the submits that are taken back, and that carry no picture."""

GROWTH = 2.0
"""Per cent of memory."""

WARM_MINUTES = 60.0

END_S = 300.0


@dataclass
class Ledger:
    """What clients know. `accepted`: ids that the server has answered with."""

    port: int = 0
    accepted: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    stop: threading.Event = field(default_factory=threading.Event)


def main(argv: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = _soak(asked, Path(folder))
    except SvdError as error:
        print(error.message, file=sys.stderr)
        return 1
    for name, figure in found.items():
        print(f"{name:<24}{figure}")
    print(json.dumps(found))
    wrong = sum(found[name] for name in ("lost", "not_ended", "failed_otherwise", "photos_left"))
    warm = asked.minutes * asked.quiet >= WARM_MINUTES
    return int(asked.check and (wrong > 0 or (warm and found["memory_percent"] > GROWTH)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m svd_core.benchmarks soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="in all")
    parser.add_argument("--quiet", type=float, default=0.3, help="part of it without kills")
    parser.add_argument("--kills", type=int, default=30, help="in the rest, at random moments")
    parser.add_argument("--check", action="store_true", help="exit by what was found")
    return parser


def _soak(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    ledger, seconds = Ledger(), asked.minutes * 60
    bodies = _bodies(min((ASSETS / "examples").glob("*.jpg")))
    threads = [
        threading.Thread(target=_client, args=(ledger, bodies, number), daemon=True)
        for number in range(CLIENTS)
    ]
    memory: list[float] = []
    for kill in range(asked.kills + 1):
        with running_server(folder, *STILL, model=DEMO_MODEL) as server:
            _await(server)
            ledger.port = server.port
            if kill == 0:
                for thread in threads:
                    thread.start()
                memory = _record_memory(server, seconds * asked.quiet)
            if kill < asked.kills:
                span = seconds * (1 - asked.quiet) / max(1, asked.kills)
                time.sleep(random.uniform(0, 2 * span))  # noqa: S311 - no secret
                server.process.kill()
                server.process.wait()
                continue
            ledger.stop.set()
            for thread in threads:
                thread.join()
            rows = _ended(folder, ledger)
    return _figures(asked, folder, ledger, rows, memory)


def _await(server: Server) -> None:
    if not server.answers("/fal/health", b'"ok"'):
        raise GenerationFailed("The server did not start.")


def _bodies(photo: Path) -> tuple[bytes, bytes]:
    """The body of a submit with a photo, and of one with something else."""
    found = []
    for data in (photo.read_bytes(), b"no photo"):
        url = f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"
        found.append(json.dumps({"image_url": url, "seed": 0}).encode("ascii"))
    return found[0], found[1]


def _record_memory(server: Server, seconds: float) -> list[float]:
    """Megabytes of the server, sixty times in so many seconds."""
    found = []
    for _ in range(60):
        time.sleep(seconds / 60)
        found.append(server.memory_mb())
    return found


def _client(ledger: Ledger, bodies: tuple[bytes, bytes], number: int) -> None:
    draw = random.Random(number)  # noqa: S311 - no secret
    while not ledger.stop.wait(draw.uniform(0.05, 0.3)):
        wrong = draw.random() < WRONG
        told = _ask(ledger, "POST", QUEUE, bodies[wrong])
        if told is not None:
            ledger.accepted.append(told["request_id"])
            if draw.random() < CANCELS:
                _ask(ledger, "PUT", f"{QUEUE}/requests/{told['request_id']}/cancel")
        if ledger.accepted:
            job = draw.choice(ledger.accepted[-200:])
            _ask(ledger, "GET", f"{QUEUE}/requests/{job}/status")


def _ask(ledger: Ledger, method: str, path: str, body: bytes | None = None) -> Any:
    """The answer's JSON, None for a refusal and for a server that is down."""
    request = urllib.request.Request(  # noqa: S310 - loopback
        f"http://127.0.0.1:{ledger.port}{path}", body, {"Content-Type": "application/json"},
        method=method,
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            told = json.loads(answer.read())
            ledger.answers[f"{method} {answer.status}"] += 1
            return told
    except urllib.error.HTTPError as error:
        ledger.answers[f"{method} {error.code}"] += 1
    except (OSError, ValueError):
        ledger.answers[f"{method} down"] += 1
    return None


def _ended(folder: Path, ledger: Ledger) -> list[Row]:
    """The rows of all accepted jobs, once none is open any more."""
    table = JobTable(Database(f"sqlite:///{folder / 'jobs.sqlite'}"))
    until = time.monotonic() + END_S
    while table.open_jobs() and time.monotonic() < until:
        time.sleep(0.2)
    rows = []
    for start in range(0, len(ledger.accepted), 500):
        rows += table.get_many(ledger.accepted[start : start + 500])
    table.database.close()
    return rows


def _figures(
    asked: argparse.Namespace, folder: Path, ledger: Ledger, rows: list[Row], memory: list[float]
) -> dict[str, Any]:
    ends = [row.record[-1].event for row in rows]
    made = [end for end in ends if isinstance(end, Succeeded)]
    early, late = sorted(memory[8:13]), sorted(memory[-5:])
    return {
        "minutes": asked.minutes,
        "kills": asked.kills,
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
        "photos_left": sum(not path.suffix for path in (folder / "photos").iterdir()),
        "unfinished_files": sum(path.suffix == ".part" for path in folder.rglob("*")),
        "answers": dict(sorted(ledger.answers.items())),
        "memory_mb": late[len(late) // 2],
        "memory_percent": 100 * (late[len(late) // 2] / early[len(early) // 2] - 1),
    }
