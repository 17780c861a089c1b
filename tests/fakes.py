"""Stand-ins for the engine, quick enough for tests of what is around it."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image

from svd_core.clip import Frames
from svd_core.engine import EngineStatus
from svd_core.events import OnProgress, Progress, Stage, Video
from svd_core.jobs import (
    Database,
    InlineQueue,
    InlineWork,
    JobQueue,
    JobTable,
    Limits,
    Work,
    WorkerQueue,
)
from svd_core.models import CHECKPOINTS, DEMO
from svd_core.params import VideoRequest
from svd_core.settings import Settings
from svd_core.storage import PhotoStore
from svd_core.video import write_mp4
from svd_core.web.page import build_page
from svd_core.web.server import launch_options, watchers

READY = EngineStatus(checkpoint=CHECKPOINTS[DEMO], device="CPU, 2 cores", state="ready")


@dataclass
class FakeWork:
    """Makes a real little mp4 in `steps` steps; while `go` is clear it stays at the second one."""

    folder: Path
    steps: int = 8
    requests: list[VideoRequest] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)

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
            )  # fmt: skip
            on_progress(now)
            while step == 2 and not self.go.wait(0.02):
                on_progress(now)
        params = request.params
        path = self.folder / f"{job_id}.mp4"
        write_mp4(moving(), path, params.rate, comment="{}")
        return Video(
            path=path, width=128, height=72, num_frames=8, fps=params.rate, seed=params.seed,
            model="fake", elapsed_s=1.2,
        )  # fmt: skip


def moving() -> Frames:
    """Eight frames of a bar that wanders, (8, 72, 128, 3) uint8."""
    frames = np.full((8, 72, 128, 3), 40, np.uint8)
    for index, frame in enumerate(frames):
        frame[:, index * 16 : index * 16 + 12] = (250, 180, 60)
    return frames


def photo(path: Path, size: tuple[int, int] = (320, 180)) -> Path:
    """A colourful photo, so that a viewer sees which way is up."""
    across = np.linspace(0, 255, size[0], dtype=np.uint8)
    down = np.linspace(0, 255, size[1], dtype=np.uint8)
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    picture[..., 0], picture[..., 1], picture[..., 2] = across, down[:, None], 128
    Image.fromarray(picture).save(path)
    return path


@contextmanager
def open_table(folder: Path) -> Iterator[JobTable]:
    """The job table in `folder`, as a program starts it there."""
    database = Database(f"sqlite:///{folder / 'jobs.sqlite'}")
    try:
        yield JobTable(database)
    finally:
        database.close()


@contextmanager
def worker_queue(folder: Path, work: Work, max_queue: int = 4) -> Iterator[WorkerQueue]:
    """The queue of a server with a worker, with table and photos in `folder`."""
    with open_table(folder) as table:
        queue = WorkerQueue(work, table, PhotoStore(folder / "photos"), Limits(max_queue))
        try:
            yield queue
        finally:
            queue.close()


@contextmanager
def inline_queue(folder: Path, work: InlineWork, max_queue: int = 1) -> Iterator[InlineQueue]:
    """The queue of a Space on ZeroGPU, with table and photos in `folder`."""
    with open_table(folder) as table:
        queue = InlineQueue(work, table, PhotoStore(folder / "photos"), Limits(max_queue))
        try:
            yield queue
        finally:
            queue.close()


@dataclass(frozen=True)
class Served:
    url: str
    queue: JobQueue
    work: FakeWork
    page: gr.Blocks


@contextmanager
def serve(
    folder: Path,
    work: FakeWork | None = None,
    *,
    status: Callable[[], EngineStatus] = lambda: READY,
    settings: Settings | None = None,
) -> Iterator[Served]:
    """The page on a free port of this machine, with `folder/examples` as its examples."""
    settings = settings or Settings(data_dir=folder, max_queue=4)
    work = work or FakeWork(folder)
    with worker_queue(folder, work, settings.max_queue) as queue:
        page = build_page(queue, status, folder / "examples", watchers(settings))
        page.queue(max_size=settings.max_queue)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = launch_options(settings, folder)
        page.launch(prevent_thread_lock=True, server_port=port, **options)
        try:
            yield Served(f"http://127.0.0.1:{port}", queue, work, page)
        finally:
            queue.close()
            page.close(verbose=False)


def examples(folder: Path) -> Path:
    """Two examples in `folder/examples`, and a photo that has no video yet."""
    place = folder / "examples"
    place.mkdir()
    for name in ("blue-door", "cat", "unfinished"):
        photo(place / f"{name}.jpg")
        if name != "unfinished":
            write_mp4(moving(), place / f"{name}.mp4", 7, comment="{}")
    return place
