"""Work without a model, and the queues that do it; nothing here loads what is slow to load."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy as np
from sqlalchemy import select

from svd_core.database import Database
from svd_core.event_stream import EventStream, Work
from svd_core.events import OnProgress, Progress, Stage, Video
from svd_core.jobs import (
    InlineQueue,
    Job,
    JobQueue,
    JobTable,
    LocalExecutor,
    QueueContext,
    QueueLimits,
    WorkerQueue,
)
from svd_core.jobs.queue import DEFAULT_LIMITS
from svd_core.jobs.schema import PHOTOS, create_tables
from svd_core.media.video import write_mp4
from svd_core.params import VideoRequest
from svd_core.types import Frames


@dataclass
class FakeWork:
    """Makes a real little mp4 in `steps` steps; while `go` is clear it stays at the second one."""

    folder: Path
    steps: int = 8
    requests: list[VideoRequest] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    preview: bytes | None = None

    def __post_init__(self) -> None:
        self.go.set()

    @contextmanager
    def held(self) -> Iterator[None]:
        self.go.clear()
        try:
            yield
        finally:
            self.go.set()

    def __call__(self, job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        self.requests.append(request)
        for step in range(1, self.steps + 1):
            now = Progress(
                stage=Stage.DENOISING, step=step, total=self.steps,
                elapsed_s=step, remaining_s=self.steps - step,
                preview=self.preview if step == 2 else None,
            )  # fmt: skip
            on_progress(now)
            times = count(1)
            while step == 2 and not self.go.wait(0.02):
                # Often, so that it can be stopped; a page would draw each preview.
                on_progress(now if next(times) % 25 == 0 else replace(now, preview=None))
        params = request.params
        path = self.folder / f"{job_id}.mp4"
        write_mp4(moving(), path, params.rate, comment="{}")
        return Video(
            path=path, width=128, height=72, num_frames=8, fps=params.rate, seed=params.seed,
            model="fake", elapsed_s=1.2, motion="gentle", peak_memory=1_234_000_000,
        )  # fmt: skip


def moving() -> Frames:
    """Eight frames of a bar that wanders, (8, 72, 128, 3) uint8."""
    frames = np.full((8, 72, 128, 3), 40, np.uint8)
    for index, frame in enumerate(frames):
        frame[:, index * 16 : index * 16 + 12] = (250, 180, 60)
    return frames


def position(job: Job) -> int:
    """How many jobs are ahead of one that waits; 0 for others."""
    last = job.last
    return last.step if isinstance(last, Progress) and last.stage is Stage.QUEUED else 0


@contextmanager
def open_table(folder: Path) -> Iterator[JobTable]:
    """The job table in `folder`, as a program starts it there."""
    database = Database(f"sqlite:///{folder / 'jobs.sqlite'}")
    try:
        create_tables(database)
        yield JobTable(database)
    finally:
        database.close()


def stored_photos(table: JobTable) -> list[bytes]:
    """The photos in the table, sorted."""
    with table.database.read() as connection:
        return sorted(connection.scalars(select(PHOTOS.c.data)))


@contextmanager
def front_queue(folder: Path, limits: QueueLimits = DEFAULT_LIMITS) -> Iterator[JobQueue]:
    """The queue of a server without a worker, with its table in `folder`."""
    with (
        open_table(folder) as table,
        closing(JobQueue(QueueContext(table, limits)).start()) as queue,
    ):
        yield queue


@contextmanager
def worker_queue(folder: Path, work: Work, max_queue: int = 4) -> Iterator[WorkerQueue]:
    """The queue of a server with a worker, with its table in `folder`."""
    with (
        open_table(folder) as table,
        closing(
            WorkerQueue([LocalExecutor(work)], QueueContext(table, QueueLimits(max_queue))).start()
        ) as queue,
    ):
        yield queue


@contextmanager
def inline_queue(folder: Path, work: EventStream, max_queue: int = 1) -> Iterator[InlineQueue]:
    """The queue of a Space on ZeroGPU, with its table in `folder`."""
    with (
        open_table(folder) as table,
        closing(InlineQueue(work, QueueContext(table, QueueLimits(max_queue))).start()) as queue,
    ):
        yield queue
