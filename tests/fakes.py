"""Stand-ins for the engine, quick enough for tests of what is around it."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image

from svd_core.engine import EngineStatus
from svd_core.jobs import JobQueue
from svd_core.models import CHECKPOINTS, DEMO
from svd_core.settings import Settings
from svd_core.video import write_mp4
from svd_core.web.page import build_page
from svd_core.web.server import launch_options, watchers
from tests.fake_work import FakeWork, moving, worker_queue

READY = EngineStatus(checkpoint=CHECKPOINTS[DEMO], device="CPU, 2 cores", state="ready")


def photo(path: Path, size: tuple[int, int] = (320, 180)) -> Path:
    """A colourful photo, so that a viewer sees which way is up."""
    across = np.linspace(0, 255, size[0], dtype=np.uint8)
    down = np.linspace(0, 255, size[1], dtype=np.uint8)
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    picture[..., 0], picture[..., 1], picture[..., 2] = across, down[:, None], 128
    Image.fromarray(picture).save(path)
    return path


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
