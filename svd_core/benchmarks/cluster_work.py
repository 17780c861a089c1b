"""Pretended work of a GPU worker: it sleeps, reports progress, and leaves files of random bytes.

The photo's bytes are JSON: `steps` of `step_s` seconds, `preview` bytes with every fourth step,
`video` and `frames` bytes of files. Progress carries the time at which it was reported.
"""

import json
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.checkpoints.table import CHECKPOINTS, DEMO_MODEL
from svd_core.engine.engine import Engine, EngineStatus, ModelHandle
from svd_core.event_stream import Work
from svd_core.events import OnProgress, Progress, Stage, Video
from svd_core.params import VideoParams, VideoRequest
from svd_core.storage import ResultStore
from svd_core.types import GenerationResult

if TYPE_CHECKING:  # Ray must not be imported before its environment is prepared
    from svd_core.cluster.worker import WorkerSettings

SLEEPER = replace(CHECKPOINTS[DEMO_MODEL], name="sleeper")


class SleepingEngine:
    """It is loaded at once, and makes nothing."""

    status = EngineStatus(
        checkpoint=SLEEPER, device="pretended GPU", state="ready", catalog=ModelCatalog((SLEEPER,))
    )

    def load(self, on_progress: OnProgress, model: str | None = None) -> ModelHandle:  # noqa: ARG002
        return ModelHandle(SLEEPER, self.generate)

    def generate(
        self, image: Image.Image, params: VideoParams, on_progress: OnProgress
    ) -> GenerationResult:
        raise NotImplementedError  # `sleeping_work` makes the videos itself


def open_work(_: "WorkerSettings", store: ResultStore) -> tuple[Engine, Work]:
    return SleepingEngine(), sleeping_work(store)


def sleeping_work(store: ResultStore) -> Work:
    """See the head of this module. The seconds of the work are in the video."""

    def work(job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        spec: dict[str, Any] = json.loads(request.image)
        begun = time.monotonic()
        for step in range(spec["steps"]):
            preview = os.urandom(spec["preview"]) if step % 4 == 0 and spec["preview"] else None
            on_progress(
                Progress(
                    stage=Stage.DENOISING,
                    step=step + 1,
                    total=spec["steps"],
                    elapsed_s=time.time(),
                    note=str(os.getpid()),
                    preview=preview,
                )
            )
            time.sleep(spec["step_s"])
        store.path(job_id).write_bytes(os.urandom(spec["video"]))
        if spec["frames"]:
            store.frames_path(job_id).write_bytes(os.urandom(spec["frames"]))
        return Video(
            path=store.path(job_id), width=1024, height=576, num_frames=25, fps=7, seed=1,
            model="sleeper", elapsed_s=time.monotonic() - begun,
        )  # fmt: skip

    return work


def photo(
    steps: int = 20, step_s: float = 0.1, preview: int = 0, video: int = 1000, frames: int = 0
) -> bytes:
    """The photo of a job of `sleeping_work`."""
    names = {"steps": steps, "step_s": step_s, "preview": preview, "video": video}
    return json.dumps({**names, "frames": frames}).encode()
