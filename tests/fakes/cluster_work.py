"""Work of a GPU worker without a model. The photo's bytes are JSON that say what it does.

`steps` of `step_s` seconds, in the last of which it stays until there is a file `hold`; `mkv`:
bytes of the frames' file; `error`: what it fails with; `die`: the step in which its process ends. A
machine without the checkpoint has `NO_CHECKPOINT` in its environment.
"""

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from PIL import Image

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.checkpoints.table import CHECKPOINTS, Checkpoint
from svd_core.cluster.worker import WorkerSettings
from svd_core.engine.engine import Engine, EngineStatus
from svd_core.errors import DeviceLost, InvalidImage, ModelGated
from svd_core.events import OnProgress, Progress, Stage, Video
from svd_core.jobs.interface import Work
from svd_core.media.video import write_mp4
from svd_core.params import VideoParams, VideoRequest
from svd_core.storage import ResultStore
from svd_core.types import GenerationResult
from tests.fakes.work import moving

NANO = CHECKPOINTS["svd-nano"]
GATED = "The licence of the checkpoint is not accepted; accept it on its page."


class PretendedEngine:
    def load(self, on_progress: OnProgress, model: str | None = None) -> Checkpoint:
        if os.environ.get("NO_CHECKPOINT"):
            raise ModelGated(GATED)
        return NANO

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


def open_work(settings: WorkerSettings, store: ResultStore) -> tuple[Engine, Work]:
    def work(job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        told: dict[str, Any] = json.loads(request.image)
        steps = told.get("steps", 2)
        for step in range(1, steps + 1):
            on_progress(Progress(
                stage=Stage.DENOISING, step=step, total=steps, note=worker_note(),
                preview=b"p" * told.get("preview", 0) or None,
            ))  # fmt: skip
            if told.get("die") == step:
                os.kill(os.getpid(), signal.SIGKILL)
            while (hold := told.get("hold")) and not Path(hold).exists():
                on_progress(Progress(stage=Stage.DENOISING, step=step, total=steps))
                time.sleep(0.02)
            time.sleep(told.get("step_s", 0.0))
        if told.get("error") == "image":
            raise InvalidImage("The photo is broken; please send another one.")
        if told.get("error") == "device":
            raise DeviceLost("The GPU stopped working.")
        if request.continues is not None:
            assert store.path(request.continues).read_bytes()
            assert store.frames_path(request.continues).stat().st_size == told["previous_mkv"]
        path = write_mp4(moving(), store.path(job_id), 7, comment="{}")
        if told.get("mkv"):
            store.frames_path(job_id).write_bytes(os.urandom(told["mkv"]))
        return Video(
            path=path, width=128, height=72, num_frames=8, fps=7, seed=request.params.seed,
            model="fake", elapsed_s=1.0,
        )  # fmt: skip

    return PretendedEngine(), work


def open_nothing(settings: WorkerSettings, store: ResultStore) -> tuple[Engine, Work]:
    """A checkpoint that no machine has."""
    raise ModelGated(GATED)


def worker_note() -> str:
    """Where the work is done."""
    return f"{socket.gethostname()} {os.getpid()}"
