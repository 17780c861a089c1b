"""Stand-ins for the engine, quick enough for tests of what is around it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.checkpoints.table import CHECKPOINTS, DEMO_MODEL
from svd_core.engine.engine import EngineStatus, ModelHandle
from svd_core.events import OnProgress, Progress, Stage, Video
from svd_core.generate import generate
from svd_core.jobs import JobQueue, Retention
from svd_core.media.video import write_mp4
from svd_core.params import VideoParams, VideoRequest
from svd_core.settings import Settings
from svd_core.storage import ResultStore
from svd_core.types import GenerationResult
from svd_core.web.fal.signed_tokens import load_secret
from svd_core.web.listener import ListenAddress
from svd_core.web.page import Backend, SessionIds, build_page
from svd_core.web.rate_limits import AddressQuota
from svd_core.web.server import configure_gradio_queue, launch, launch_options, max_followers
from tests.fakes.work import FakeWork, moving, worker_queue

READY = EngineStatus(
    checkpoint=CHECKPOINTS[DEMO_MODEL],
    device="CPU, 2 cores",
    state="ready",
    catalog=ModelCatalog((CHECKPOINTS[DEMO_MODEL],)),
)


def photo(path: Path, size: tuple[int, int] = (320, 180)) -> Path:
    """A colourful photo, so that a viewer sees which way is up."""
    across = np.linspace(0, 255, size[0], dtype=np.uint8)
    down = np.linspace(0, 255, size[1], dtype=np.uint8)
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    picture[..., 0], picture[..., 1], picture[..., 2] = across, down[:, None], 128
    Image.fromarray(picture).save(path)
    return path


SQUARE = replace(
    CHECKPOINTS["svd"],
    name="square",
    source="example/square",
    sizes=((96, 96),),
    num_frames=5,
    summary_code="summary_custom",
)
"""A second checkpoint beside that of `READY`, to choose on the page."""


@dataclass
class DriftingEngine:
    """The photo, sliding sideways: an engine without a model whose videos have real recipes."""

    status: EngineStatus = READY

    def load(self, on_progress: OnProgress, model: str | None = None) -> ModelHandle:
        found = self.status.catalog.get(model)
        if found != self.status.checkpoint:
            on_progress(Progress(stage=Stage.LOADING, step=1, total=2))
        self.status = replace(self.status, checkpoint=found)
        return ModelHandle(found, self.generate)

    def generate(
        self, image: Image.Image, params: VideoParams, on_progress: OnProgress
    ) -> GenerationResult:
        self.load(on_progress, params.model)
        on_progress(Progress(stage=Stage.DENOISING, step=1, total=1))
        frames = [np.roll(np.asarray(image), 6 * n, axis=1) for n in range(params.num_frames or 8)]
        return GenerationResult(np.stack(frames), params)


@dataclass
class RealWork(FakeWork):
    """The whole path of the core, around `DriftingEngine`."""

    engine: DriftingEngine = field(default_factory=DriftingEngine)

    def __call__(self, job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        self.requests.append(request)
        store = ResultStore(self.folder)
        return generate(request, self.engine, store, job_id, on_progress)


@dataclass(frozen=True)
class Served:
    url: str
    queue: JobQueue
    work: FakeWork
    page: gr.Blocks
    visitors: SessionIds


@contextmanager
def serve(
    folder: Path,
    work: FakeWork | None = None,
    *,
    status: Callable[[], EngineStatus] = lambda: READY,
    settings: Settings | None = None,
    port: int | None = None,
    acceleration: AccelerationConfig | None = None,
    quota: AddressQuota | None = None,
) -> Iterator[Served]:
    """The page on `port` or a free one of this machine, with `folder/examples` as its examples."""
    settings = settings or Settings(data_dir=folder, max_queue=4)
    work = work or FakeWork(folder)
    with worker_queue(folder, work, settings.max_queue) as queue:
        keep = retention(queue, folder)
        backend = Backend(
            queue, status, keep.results, keep.remove, acceleration or AccelerationConfig(),
            quota=quota or AddressQuota(),
            session_ids=SessionIds(load_secret(folder / "secrets" / "visitors")),
        )  # fmt: skip
        page = build_page(backend, folder / "examples", max_followers(settings))
        configure_gradio_queue(page, settings)
        listener = ListenAddress(port=port or 0).bind()
        launch(page, lambda: listener, launch_options(settings, folder))
        try:
            yield Served(listener.url.rstrip("/"), queue, work, page, backend.session_ids)
        finally:
            queue.close()
            page.close(verbose=False)


def retention(queue: JobQueue, folder: Path) -> Retention:
    """What removes the jobs of `worker_queue`."""
    return Retention(queue.table, ResultStore(folder), keep_hours=1, keep_gb=1)


def examples(folder: Path) -> Path:
    """Two examples in `folder/examples`, and a photo that has no video yet."""
    place = folder / "examples"
    place.mkdir()
    for name in ("blue-door", "cat", "unfinished"):
        photo(place / f"{name}.jpg")
        if name != "unfinished":
            write_mp4(moving(), place / f"{name}.mp4", 7, comment="{}")
    return place
