"""Pretended work of a GPU worker: it sleeps, reports progress, and writes files of random bytes.

The photo's bytes are JSON: `steps` of `step_s` seconds, `preview` bytes with every fourth step,
`video` and `frames` bytes of files. Progress carries the time of the report in `elapsed_s`, and the
process id in `note`.
"""

import json
import os
import time
from typing import TYPE_CHECKING, Any

from svd_core.benchmarks.server_process import StillEngine
from svd_core.engine.engine import Engine
from svd_core.event_stream import Work
from svd_core.events import OnProgress, Progress, Stage, Video
from svd_core.params import VideoRequest
from svd_core.storage import ResultStore

if TYPE_CHECKING:  # Ray must not be imported before its environment is prepared
    from svd_core.cluster.worker import WorkerSettings


def open_work(_: "WorkerSettings", store: ResultStore) -> tuple[Engine, Work]:
    return StillEngine(), sleeping_work(store)


def sleeping_work(store: ResultStore) -> Work:
    """Work described by the photo. `elapsed_s` of the video: seconds of the work."""

    def work(job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        spec: dict[str, Any] = json.loads(request.image)
        total, begun = spec["steps"], time.monotonic()
        for step in range(total):
            preview = os.urandom(spec["preview"]) if step % 4 == 0 and spec["preview"] else None
            on_progress(Progress(
                stage=Stage.DENOISING, step=step + 1, total=total, elapsed_s=time.time(),
                note=str(os.getpid()), preview=preview,
            ))  # fmt: skip
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
    sizes = {"preview": preview, "video": video, "frames": frames}
    return json.dumps({"steps": steps, "step_s": step_s, **sizes}).encode()
