"""HTTP clients of the load test, each in a thread, and the latencies they see."""

import base64
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from svd_core.benchmarks.server_process import Server, example_photo
from svd_core.benchmarks.targets import p95
from svd_core.errors import ToolFailed

QUEUE = "/fal/queue/fal-ai/stable-video"
COMPLETED_STATUS = 200
"""Status of a finished job; other jobs have 202."""

TIMEOUT_S = 60.0
POLL_S = 0.1
SUBMIT_S = 1.0
QUIET_POLL_S = 0.5
"""Seconds between two polls of a client that waits for an undisturbed clip."""


class Reply(NamedTuple):
    status: int
    json: Any


@dataclass
class LoadTiming:
    """Timing of one video. `seconds`: of the work, as reported by the server.

    `cpu_s`: of all processors, for server and clients. `polls`, `submits`: latencies of the clients
    meanwhile, in seconds.
    """

    seconds: float = 0.0
    cpu_s: float = 0.0
    polls: list[float] = field(default_factory=list)
    submits: list[float] = field(default_factory=list)

    @property
    def status_ms(self) -> float:
        return 1000 * p95(self.polls)

    @property
    def submit_ms(self) -> float:
        return 1000 * p95(self.submits)


class HttpClient:
    """HTTP client with one kept connection and one request at a time.

    It is little more than a socket, since it shares the processors with the server it measures.
    """

    def __init__(self, port: int) -> None:
        self._host = f"127.0.0.1:{port}"
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = self._socket.makefile("rb")

    def close(self) -> None:
        self._received.close()
        self._socket.close()

    def ask(self, method: str, path: str, body: bytes = b"") -> Reply:
        """Send a request. Raises `ToolFailed` for an error status or a closed connection."""
        head = (
            f"{method} {QUEUE}{path} HTTP/1.1\r\nHost: {self._host}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._socket.sendall(head.encode("ascii") + body)
        status_line, length = self._received.readline(), 0
        if not status_line:
            raise ToolFailed(f"The server closed the connection at {method} {path}.")
        while (line := self._received.readline().strip().lower()) != b"":
            name, _, value = line.partition(b":")
            length = int(value) if name == b"content-length" else length
        status, content = int(status_line.split()[1]), self._received.read(length)
        if status >= 400:
            raise ToolFailed(f"{method} {path} was answered by {content.decode()}")
        return Reply(status, json.loads(content))

    def submit(self, body: bytes) -> str:
        """Submit a job; returns its id."""
        job: str = self.ask("POST", "", body).json["request_id"]
        return job

    def wait_for_end(self, job: str, every_s: float) -> float:
        """Wait for the end of a job; returns the seconds of its work."""
        while (reply := self.ask("GET", f"/requests/{job}/status")).status != COMPLETED_STATUS:
            time.sleep(every_s)
        seconds: float = reply.json["metrics"]["inference_time"]
        return seconds


def submit_body(photo: bytes | None = None) -> bytes:
    """Body of a submit with the content of a photo's file, by default of an example."""
    photo = example_photo().read_bytes() if photo is None else photo
    data = base64.b64encode(photo).decode("ascii")
    return json.dumps({"image_url": f"data:image/jpeg;base64,{data}", "seed": 0}).encode("ascii")


def time_video(server: Server, body: bytes, clients: int = 0) -> LoadTiming:
    """Time one video. With `clients`, they poll its status all the time, and one more client keeps
    submitting jobs and cancelling them."""
    timing, ended = LoadTiming(cpu_s=-_cpu_s(server)), threading.Event()
    with closing(HttpClient(server.port)) as caller, ThreadPoolExecutor() as threads:
        job = caller.submit(body)
        others = []
        if clients:
            others = [
                threads.submit(_poll, server.port, job, clients, timing.polls),
                threads.submit(_submit, server.port, body, timing.submits, ended),
            ]
        try:
            timing.seconds = caller.wait_for_end(job, QUIET_POLL_S)
        finally:
            ended.set()
        for other in others:
            other.result()
    timing.cpu_s += _cpu_s(server)
    return timing


def run_jobs(port: int, body: bytes, jobs: int, clients: int) -> None:
    """Make `jobs` videos, for `clients` at a time, and fetch each result."""

    def client(number: int) -> None:
        with closing(HttpClient(port)) as caller:
            for _ in range(number, jobs, clients):
                job = caller.submit(body)
                caller.wait_for_end(job, POLL_S)
                caller.ask("GET", f"/requests/{job}")

    with ThreadPoolExecutor(clients) as threads:
        list(threads.map(client, range(clients)))


def _cpu_s(server: Server) -> float:
    return server.cpu_s() + time.process_time()


def _poll(port: int, job: str, clients: int, seconds: list[float]) -> None:
    """Poll for all clients in turn, each by its own connection, until the job is finished.

    Latencies count from when a poll was due, so a late poll counts the delay before it.
    """
    with ExitStack() as stack:
        callers = [stack.enter_context(closing(HttpClient(port))) for _ in range(clients)]
        due, each_s, turn = time.perf_counter(), POLL_S / clients, 0
        while True:
            time.sleep(max(0.0, due - time.perf_counter()))
            reply = callers[turn % clients].ask("GET", f"/requests/{job}/status?logs=1")
            seconds.append(time.perf_counter() - due)
            if reply.status == COMPLETED_STATUS:
                return
            due, turn = due + each_s, turn + 1


def _submit(port: int, body: bytes, seconds: list[float], ended: threading.Event) -> None:
    with closing(HttpClient(port)) as caller:
        while not ended.is_set():
            begun = time.perf_counter()
            job = caller.submit(body)
            seconds.append(time.perf_counter() - begun)
            caller.ask("PUT", f"/requests/{job}/cancel")
            ended.wait(SUBMIT_S)
