"""A server's queue as a process of its own, to be killed at any moment, and a pipe to talk to it.

It owns the job table in a folder, where it writes down each job it begins and each address it asks
for a photo, which stays silent until there is a file of the address's last part. Webhooks are sent
by POST, or written down in a file. The photo's bytes say what the work is: `hold` stays in a step
until there is a file `go`, `encode` takes a while to write its video, `bad` fails, `die` ends the
process once there is a file `go`.
"""

import multiprocessing
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svd_core.database import Database
from svd_core.errors import InvalidImage, InvalidRequest, SvdError
from svd_core.events import Event, OnProgress, Progress, Stage, Video
from svd_core.jobs import (
    Cancellation,
    Job,
    JobEvent,
    JobOptions,
    JobQueue,
    JobTable,
    LocalExecutor,
    Outbox,
    QueueContext,
    QueueLimits,
    RemoteRequest,
    WorkerQueue,
)
from svd_core.jobs.interface import Times
from svd_core.jobs.webhook_outbox import RetryPolicy
from svd_core.media.video import write_mp4
from svd_core.owner_lock import OwnerLock
from svd_core.params import VideoParams, VideoRequest
from svd_core.storage import ResultStore
from tests.fakes.work import moving, position


@dataclass(frozen=True)
class Server:
    """A server that runs. `first_words`: "ready", or why it waits."""

    process: ForkServerProcess
    pipe: Connection
    first_words: str

    def submit(self, photo: bytes | str, **options: Any) -> "ServerJob":
        """Submit a photo, or the address of one."""
        return self.job(self.call("submit", photo, JobOptions(**options)))

    def reject(self, **options: Any) -> str:
        """The id of a job that was rejected."""
        return str(self.call("reject", JobOptions(**options)))

    def job(self, job_id: str) -> "ServerJob":
        return ServerJob(self, job_id)

    def wait_until_ready(self) -> None:
        assert self.pipe.recv() == "ready"

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def stop(self) -> int | None:
        """Ask it to stop. Returns its exit status."""
        self.process.terminate()
        self.process.join()
        return self.process.exitcode

    def call(self, name: str, *args: Any) -> Any:
        self.pipe.send((name, args))
        answer = self.pipe.recv()
        if isinstance(answer, SvdError):
            raise answer
        return answer


@dataclass(frozen=True)
class ServerJob:
    """A job as a client of its server sees it, who has its id."""

    server: Server
    id: str

    def cancel(self) -> Cancellation:
        result: Cancellation = self.server.call("cancel", self.id)
        return result

    def events_since(self, seen: int = 0) -> Sequence[JobEvent]:
        events: Sequence[JobEvent] = self.server.call("events", self.id, seen)
        return events

    @property
    def position(self) -> int:
        return int(self.server.call("position", self.id))

    @property
    def has_photo(self) -> bool:
        return bool(self.server.call("has_photo", self.id))

    @property
    def times(self) -> Times:
        times: Times = self.server.call("times", self.id)
        return times

    @property
    def last(self) -> Event:
        return self.events_since()[-1].event

    @property
    def done(self) -> bool:
        return not isinstance(self.last, Progress)


@contextmanager
def server(folder: Path, max_queue: int = 1000) -> Iterator[Server]:
    """One that is ready for work, or waits; killed at the end, if it is not dead by then."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    ours, theirs = context.Pipe()
    process = context.Process(target=main, args=(folder, max_queue, theirs))
    process.start()
    theirs.close()
    try:
        yield Server(process, ours, ours.recv())
    finally:
        process.kill()
        process.join()
        process.close()
        ours.close()


def main(folder: Path, max_queue: int, pipe: Connection) -> None:
    stop, ready = threading.Event(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    store = ResultStore(folder / "results")

    def work(job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        with (folder / "begun").open("a") as begun:
            begun.write(f"{job_id}\n")
        on_progress(Progress(stage=Stage.DENOISING, step=1, total=2))
        while request.image in (b"hold", b"die") and not (folder / "go").exists():
            time.sleep(0.01)
            on_progress(Progress(stage=Stage.DENOISING, step=2, total=2))
        if request.image == b"bad":
            raise InvalidImage("image_damaged")
        if request.image == b"die":
            ready.wait()  # so that the parent process knows before
            os.kill(os.getpid(), signal.SIGKILL)
        on_progress(Progress(stage=Stage.WRITING))
        frames = np.tile(moving(), (100 if request.image == b"encode" else 1, 1, 1, 1))
        path = write_mp4(frames, store.path(job_id), 7, comment="{}")
        return Video(
            path=path, width=128, height=72, num_frames=len(frames), fps=7, seed=1, model="fake",
            elapsed_s=1.0,
        )  # fmt: skip

    def fetch(url: str) -> bytes:
        with (folder / "asked").open("a") as asked:
            asked.write(f"{url}\n")
        while not (folder / url.rpartition("/")[2]).exists():
            time.sleep(0.01)
        return b"fetched"

    def send(job: Job, url: str) -> None:
        if url.startswith("file:"):
            with Path(url.removeprefix("file:")).open("a") as heard:
                heard.write(f"{job.id} {type(job.last).__name__}\n")
            return
        call = urllib.request.Request(url, data=job.id.encode(), method="POST")
        urllib.request.urlopen(call, timeout=5).close()

    database = Database(f"sqlite:///{folder / 'jobs.sqlite'}")
    lock = OwnerLock.of(database, folder, pytest.fail)
    if lock.acquire(stop, pipe.send):
        table = JobTable(database)
        context = QueueContext(table, QueueLimits(max_queue), fetch)
        queue = WorkerQueue([LocalExecutor(work)], context).start()
        outbox = Outbox(table, queue.get, send, RetryPolicy(first_s=0.2), poll_interval_s=0.05)
        pipe.send("ready")
        ready.set()
        answer(queue, pipe, stop)
        outbox.close()
        queue.close()


def answer(queue: JobQueue, pipe: Connection, stop: threading.Event) -> None:
    """Answer the client until `stop` is set or it hangs up."""

    def submit(photo: bytes | str, options: JobOptions) -> str:
        params = VideoParams(seed=1)
        url = isinstance(photo, str)
        request = RemoteRequest(photo, params) if url else VideoRequest(photo, params)
        return queue.submit(request, options).id

    commands: dict[str, Callable[..., Any]] = {
        "submit": submit,
        "reject": lambda options: (
            queue.reject(InvalidRequest("link_repeats_setting", field="fps"), options).id
        ),
        "cancel": lambda job_id: queue.get(job_id).cancel(),
        "events": lambda job_id, seen: queue.get(job_id).events_since(seen),
        "position": lambda job_id: position(queue.get(job_id)),
        "has_photo": lambda job_id: queue.photo(job_id) is not None,
        "times": lambda job_id: queue.get(job_id).times,
    }
    with suppress(EOFError):
        while not stop.is_set():
            if wait([pipe], 0.02):
                name, args = pipe.recv()
                try:
                    told = commands[name](*args)
                except SvdError as error:
                    told = error
                pipe.send(told)
