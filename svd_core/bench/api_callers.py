"""Callers of the API on one event loop: what they ask, and how long each waits for its answer."""

import asyncio
import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from svd_core.bench.serving import Server
from svd_core.errors import GenerationFailed

QUEUE = "/fal/queue/fal-ai/stable-video"
POLL_S = 0.1
SUBMIT_S = 1.0
LOOK_S = 0.5
"""Seconds between two looks of whoever waits for a clip that is to be left alone."""


class Reply(NamedTuple):
    body: Mapping[str, Any]
    seconds: float


@dataclass
class Clip:
    """One video. `seconds`: of the work, as the server tells them. `cpu_s`: of all processors, for
    server and callers. The others are what callers waited for their answers meanwhile."""

    seconds: float = 0.0
    cpu_s: float = 0.0
    polls: list[float] = field(default_factory=list)
    submits: list[float] = field(default_factory=list)


class Caller:
    """One connection that is kept, as clients keep theirs; little more than a socket, since it
    shares the processors with what it measures."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> "Caller":
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def ask(self, method: str, path: str, body: bytes = b"") -> Reply:
        """Raises `GenerationFailed` for an answer that tells of an error."""
        head = (
            f"{method} {QUEUE}{path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        begun = time.perf_counter()
        self._writer.write(head.encode("ascii") + body)
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        answer = await self._reader.readexactly(int(headers["content-length"]))
        seconds = time.perf_counter() - begun
        if int(status.split()[1]) >= 400:
            raise GenerationFailed(f"{method} {path} was answered by {answer.decode()}")
        return Reply(json.loads(answer), seconds)

    async def submit(self, body: bytes) -> tuple[str, float]:
        """(id of the job, seconds)"""
        reply = await self.ask("POST", "", body)
        return reply.body["request_id"], reply.seconds

    async def ended(self, job: str, every_s: float) -> float:
        """Wait for the end of a job. Returns the seconds of its work."""
        while True:
            told = (await self.ask("GET", f"/requests/{job}/status")).body
            if told["status"] == "COMPLETED":
                seconds: float = told["metrics"]["inference_time"]
                return seconds
            await asyncio.sleep(every_s)


def asking_for(photo: Path) -> bytes:
    """The body of a submit that carries `photo`."""
    data = base64.b64encode(photo.read_bytes()).decode("ascii")
    return json.dumps({"image_url": f"data:image/jpeg;base64,{data}", "seed": 0}).encode("ascii")


async def clip(server: Server, body: bytes, clients: int = 0) -> Clip:
    """Have one video made. So many clients ask all the time how it goes, if there are any, while
    somebody else submits again and again, and takes it back."""
    made, port = Clip(cpu_s=-_cpu_s(server)), server.port
    async with Caller(port) as caller, asyncio.TaskGroup() as group:
        job, _ = await caller.submit(body)
        ended = group.create_task(caller.ended(job, LOOK_S))
        for number in range(clients):
            after_s = number * POLL_S / clients
            group.create_task(_poll(port, job, made.polls, after_s))
        if clients:
            group.create_task(_submit(port, body, made.submits, ended))
    made.seconds = ended.result()
    made.cpu_s += _cpu_s(server)
    return made


async def many(port: int, body: bytes, jobs: int, clients: int) -> None:
    """Have so many videos made, for so many clients at a time, each to its result."""

    async def client(number: int) -> None:
        async with Caller(port) as caller:
            for _ in range(number, jobs, clients):
                job, _ = await caller.submit(body)
                await caller.ended(job, POLL_S)
                await caller.ask("GET", f"/requests/{job}")

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))


def _cpu_s(server: Server) -> float:
    return server.cpu_s() + time.process_time()


async def _poll(port: int, job: str, seconds: list[float], after_s: float) -> None:
    await asyncio.sleep(after_s)
    async with Caller(port) as caller:
        due = time.monotonic()
        while True:
            reply = await caller.ask("GET", f"/requests/{job}/status?logs=1")
            seconds.append(reply.seconds)
            if reply.body["status"] == "COMPLETED":
                return
            due = max(due + POLL_S, time.monotonic())  # no burst makes up for what was slow
            await asyncio.sleep(due - time.monotonic())


async def _submit(
    port: int, body: bytes, seconds: list[float], ended: "asyncio.Task[float]"
) -> None:
    async with Caller(port) as caller:
        while not ended.done():
            job, waited_s = await caller.submit(body)
            seconds.append(waited_s)
            await caller.ask("PUT", f"/requests/{job}/cancel")
            await asyncio.wait([ended], timeout=SUBMIT_S)
