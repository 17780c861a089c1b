"""Callers of the API on one event loop: what they ask, and how long each waits for its answer."""

import asyncio
import base64
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from svd_core.bench.serving import Server
from svd_core.errors import GenerationFailed

QUEUE = "/fal/queue/fal-ai/stable-video"
ENDED = 200
"""By which a job that is over is told, and others by 202."""

LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
POLL_S = 0.1
SUBMIT_S = 1.0
LOOK_S = 0.5
"""Seconds between two looks of whoever waits for a clip that is to be left alone."""


class Reply(NamedTuple):
    status: int
    body: bytes
    seconds: float

    @property
    def told(self) -> Mapping[str, Any]:
        told: Mapping[str, Any] = json.loads(self.body)
        return told


@dataclass
class Clip:
    """One video. `seconds`: of the work, as the server tells them. `cpu_s`: of all processors, for
    server and callers. The others are what callers waited for their answers meanwhile."""

    seconds: float = 0.0
    cpu_s: float = 0.0
    polls: list[float] = field(default_factory=list)
    submits: list[float] = field(default_factory=list)


class Caller(asyncio.Protocol):
    """One connection that is kept, as clients keep theirs, with one question at a time; little more
    than a socket, since it shares the processors with what it measures."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._got = b""

    async def __aenter__(self) -> "Caller":
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._transport.close()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, end, body = self._got.partition(b"\r\n\r\n")
        length = LENGTH.search(head) if end else None
        if length is not None and len(body) == int(length[1]) and not self._answer.done():
            self._got = b""
            self._answer.set_result((int(head.split(b" ", 2)[1]), body))

    def connection_lost(self, error: Exception | None) -> None:
        if not self._answer.done():
            self._answer.set_exception(error or ConnectionError("The server hung up."))

    async def ask(self, method: str, path: str, body: bytes = b"") -> Reply:
        """Raises `GenerationFailed` for an answer that tells of an error."""
        head = (
            f"{method} {QUEUE}{path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        begun = time.perf_counter()
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(head.encode("ascii") + body)
        status, told = await self._answer
        if status >= 400:
            raise GenerationFailed(f"{method} {path} was answered by {told.decode()}")
        return Reply(status, told, time.perf_counter() - begun)

    async def submit(self, body: bytes) -> tuple[str, float]:
        """(id of the job, seconds)"""
        reply = await self.ask("POST", "", body)
        return reply.told["request_id"], reply.seconds

    async def ended(self, job: str, every_s: float) -> float:
        """Wait for the end of a job. Returns the seconds of its work."""
        while True:
            reply = await self.ask("GET", f"/requests/{job}/status")
            if reply.status == ENDED:
                seconds: float = reply.told["metrics"]["inference_time"]
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
            if reply.status == ENDED:
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
