"""Work of a GPU worker without a model. The photo's bytes are JSON that say what it does.

`steps` of `step_s` seconds, in the last of which it stays until there is a file `hold`, or a file
`quiet`, for which it waits without reporting progress; `mkv`: bytes of the frames' file; `error`:
what it fails with; `die`: a file that it makes, and ends its process, unless it is there. A machine
has no checkpoint if its address is in the file `without`.
"""

import json
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import ray
from PIL import Image

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.checkpoints.table import CHECKPOINTS
from svd_core.cluster.worker import OpenWork, WorkerSettings
from svd_core.engine.engine import Engine, EngineStatus, ModelHandle
from svd_core.errors import DeviceLost, InvalidImage, ModelGated
from svd_core.event_stream import Work
from svd_core.events import OnProgress, Progress, Stage, Video
from svd_core.media.video import write_mp4
from svd_core.params import VideoParams, VideoRequest
from svd_core.storage import ResultStore
from svd_core.types import GenerationResult
from tests.fakes.work import moving

NANO = CHECKPOINTS["svd-nano"]
GATED = "someone/gated-model"


class PretendedEngine:
    """`without`: file with the addresses of the machines that have no checkpoint."""

    def __init__(self, without: Path | None = None) -> None:
        self._without = without

    def load(self, on_progress: OnProgress, model: str | None = None) -> ModelHandle:
        if self._without is not None and worker_ip() in self._without.read_text().split():
            raise ModelGated("model_licence_required", model=GATED)
        return ModelHandle(NANO, self.generate)

    def generate(
        self, image: Image.Image, params: VideoParams, on_progress: OnProgress
    ) -> GenerationResult:
        raise NotImplementedError

    @property
    def status(self) -> EngineStatus:
        return EngineStatus(
            checkpoint=NANO, device="Pretended GPU, 1 GB", state="ready",
            catalog=ModelCatalog((NANO,)),
        )  # fmt: skip


def open_work(
    settings: WorkerSettings, store: ResultStore, without: Path | None = None
) -> tuple[Engine, Work]:
    def work(job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        spec: dict[str, Any] = json.loads(request.image)
        note, total = f"{worker_ip()} {os.getpid()}", spec.get("steps", 2)
        for step in range(1, total + 1):
            on_progress(Progress(
                stage=Stage.DENOISING, step=step, total=total, note=note,
                preview=b"p" * spec.get("preview", 0) or None,
            ))  # fmt: skip
            time.sleep(spec.get("step_s", 0.0))
        while (hold := spec.get("hold")) and not Path(hold).exists():
            on_progress(Progress(stage=Stage.DENOISING, step=total, total=total, note=note))
            time.sleep(0.02)
        while (quiet := spec.get("quiet")) and not Path(quiet).exists():
            time.sleep(0.02)
        if (die := spec.get("die")) and not Path(die).exists():
            Path(die).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if spec.get("error") == "image":
            raise InvalidImage("image_damaged")
        if spec.get("error") == "device":
            raise DeviceLost("gpu_lost", reason="x")
        if request.continues is not None:
            assert store.path(request.continues).read_bytes()
            assert store.frames_path(request.continues).stat().st_size == spec["previous_mkv"]
        path = write_mp4(moving(), store.path(job_id), 7, comment="{}")
        if spec.get("mkv"):
            store.frames_path(job_id).write_bytes(os.urandom(spec["mkv"]))
        return Video(
            path=path, width=128, height=72, num_frames=8, fps=7, seed=request.params.seed,
            model="fake", elapsed_s=1.0,
        )  # fmt: skip

    return PretendedEngine(without), work


def open_work_without(without: Path) -> OpenWork:
    """`open_work` on machines of which some have no checkpoint."""
    return partial(open_work, without=without)


def worker_ip() -> str:
    """The address of the machine that this process works on."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
