"""`app.py` with a stub engine, to measure everything around the model."""

import runpy
from dataclasses import replace

import numpy as np
from PIL import Image

from svd_core.benchmarks.server_process import APP
from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.checkpoints.table import CHECKPOINTS, DEMO_MODEL, Checkpoint
from svd_core.engine.engine import EngineStatus
from svd_core.events import OnProgress, Progress, Stage
from svd_core.params import VideoParams
from svd_core.settings import Settings
from svd_core.types import GenerationResult

SMALL = replace(CHECKPOINTS[DEMO_MODEL], name="still", sizes=((128, 72),), num_frames=2)


class StillEngine:
    """The photo itself as every frame. No setting matters to it."""

    def __init__(self, _: Settings) -> None:
        self.status = EngineStatus(
            checkpoint=SMALL, device="no device", state="ready", catalog=ModelCatalog((SMALL,))
        )

    def load(self, on_progress: OnProgress, model: str | None = None) -> Checkpoint:  # noqa: ARG002
        return SMALL

    def generate(
        self, image: Image.Image, params: VideoParams, on_progress: OnProgress
    ) -> GenerationResult:
        on_progress(Progress(stage=Stage.DENOISING, step=1, total=1))
        return GenerationResult(
            np.stack([np.asarray(image, dtype=np.uint8)] * SMALL.num_frames), params
        )


if __name__ == "__main__":
    runpy.run_path(str(APP))["main"](StillEngine)
