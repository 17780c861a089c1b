"""Stand-ins for the engine, quick enough for tests of what is around it."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from svd_core.engine import EngineStatus
from svd_core.events import OnProgress, Progress, Stage, Video
from svd_core.models import CHECKPOINTS, DEMO
from svd_core.params import VideoRequest
from svd_core.video import write_mp4

READY = EngineStatus(checkpoint=CHECKPOINTS[DEMO], device="CPU, 2 cores", state="ready")


@dataclass
class FakeWork:
    """Makes a real little mp4 in `steps` steps, each of which takes `step_s` seconds."""

    folder: Path
    steps: int = 4
    step_s: float = 0.05
    requests: list[VideoRequest] = field(default_factory=list)

    def __call__(self, job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        self.requests.append(request)
        started = time.monotonic()
        for step in range(1, self.steps + 1):
            time.sleep(self.step_s)
            on_progress(
                Progress(
                    stage=Stage.DENOISING, step=step, total=self.steps,
                    elapsed_s=step * self.step_s, remaining_s=(self.steps - step) * self.step_s,
                )
            )
        params = request.params
        path = self.folder / f"{job_id}.mp4"
        write_mp4(moving(), path, params.rate, comment="{}")
        return Video(
            path=path, width=128, height=72, num_frames=8, fps=params.rate, seed=params.seed,
            model="fake", elapsed_s=time.monotonic() - started,
        )


def moving() -> np.ndarray:
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
