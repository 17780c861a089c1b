"""The path from a photo to a video; everything else is one noun it uses."""

import time

from svd_core.engine import Engine
from svd_core.events import OnProgress, Progress, Stage, Video
from svd_core.extend import Earlier
from svd_core.image import frame_photo, open_photo
from svd_core.motion import measure
from svd_core.params import VideoRequest
from svd_core.recipe import Recipe
from svd_core.storage import ResultStore
from svd_core.video import write_mp4


def generate(
    request: VideoRequest, engine: Engine, store: ResultStore, job_id: str, on_progress: OnProgress
) -> Video:
    """Make the video of `request` and keep it in `store` under `job_id`.

    Raises `SvdError`s, and `Cancelled` if `on_progress` raised it; nothing is left on disk then.
    """
    started = time.monotonic()
    photo = open_photo(request.image, patient=True)
    earlier = Earlier.of(request, store)
    checkpoint = engine.load(on_progress, request.params.model)
    framed = frame_photo(photo, checkpoint.sizes, request.params)
    if earlier is not None:
        earlier.check(framed.size, request.params.num_frames or checkpoint.num_frames)
    clip = engine.generate(framed.image, request.params, on_progress)
    motion = measure(clip.frames)
    if earlier is not None:
        clip = earlier.joined(clip)
    on_progress(Progress(stage=Stage.WRITING, elapsed_s=time.monotonic() - started))
    continues = None if earlier is None else earlier.recipe
    recipe = Recipe.of(clip, checkpoint, framed, request.image, continues)
    path = write_mp4(clip.frames, store.path(job_id), clip.params.rate, comment=recipe.to_json())
    store.put_frames(job_id, clip.frames)
    return Video(
        path=path,
        width=clip.frames.shape[2],
        height=clip.frames.shape[1],
        num_frames=clip.frames.shape[0],
        fps=clip.params.rate,
        seed=clip.params.seed,
        model=checkpoint.name,
        elapsed_s=time.monotonic() - started,
        notes=clip.notes,
        motion=motion.level,
        peak_memory=clip.peak_memory,
    )
