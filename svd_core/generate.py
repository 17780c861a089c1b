"""The path from a photo to a video; everything else is one noun it uses."""

import time
from collections.abc import Callable
from dataclasses import replace

from svd_core.engine.engine import Engine
from svd_core.events import OnProgress, Progress, Stage, Video
from svd_core.extend import PreviousVideo
from svd_core.media.image import frame_photo, open_photo
from svd_core.media.interpolation import interpolate
from svd_core.media.motion_meter import measure_motion
from svd_core.media.recipe import Recipe
from svd_core.media.video import write_mp4
from svd_core.messages import Message
from svd_core.params import FACTORS, MAX_FPS, VideoRequest, limit_interpolation
from svd_core.storage import ResultStore
from svd_core.types import GenerationResult


def generate(
    request: VideoRequest, engine: Engine, store: ResultStore, job_id: str, on_progress: OnProgress
) -> Video:
    """Make the video of `request` and keep it in `store` under `job_id`.

    The mp4 has the requested in-between frames. The lossless frames, from which a video is
    extended, are the model's own. Raises `SvdError`s, and `Cancelled` if `on_progress` raises it;
    then nothing stays on disk.
    """
    started = time.monotonic()
    photo = open_photo(request.image, patient=True)
    previous = PreviousVideo.from_request(request, store)
    model = engine.load(on_progress, request.params.model)
    checkpoint = model.checkpoint
    framed = frame_photo(photo, checkpoint.sizes, request.params)
    if previous is not None:
        previous.check(framed.size, request.params.num_frames or checkpoint.num_frames)
    clip = model.generate(framed.image, request.params, on_progress)
    motion = measure_motion(clip.frames)
    if previous is not None:
        clip = previous.join(clip)
    clip = _within_limits(clip)
    factor = FACTORS[clip.params.interpolation]
    writing = _writing_reports(on_progress, started)
    writing(0, 0)
    frames = interpolate(clip.frames, factor, writing)
    fps = clip.params.rate * factor
    continues = None if previous is None else previous.recipe
    recipe = Recipe.from_clip(clip, checkpoint, framed, request.image, continues)
    path = write_mp4(frames, store.path(job_id), fps, comment=recipe.to_json())
    store.put_frames(job_id, clip.frames)
    return Video(
        path=path,
        width=frames.shape[2],
        height=frames.shape[1],
        num_frames=frames.shape[0],
        fps=fps,
        seed=clip.params.seed,
        model=checkpoint.name,
        elapsed_s=time.monotonic() - started,
        notes=clip.notes,
        motion=motion.level,
        peak_memory=clip.peak_memory,
    )


def _within_limits(clip: GenerationResult) -> GenerationResult:
    """`clip` with the interpolation that its playback rate allows, and a note about a change."""
    params = clip.params
    used = limit_interpolation(params.interpolation, params.rate)
    if used == params.interpolation:
        return clip
    note = Message("interpolation_reduced", rate=params.rate * FACTORS[used], most=MAX_FPS)
    return replace(clip, params=replace(params, interpolation=used), notes=(*clip.notes, note))


def _writing_reports(on_progress: OnProgress, started: float) -> Callable[[int, int], None]:
    """A function that reports the progress of writing: `done` of `total` are interpolated."""
    begun = time.monotonic()

    def report(done: int, total: int) -> None:
        now = time.monotonic()
        left = (now - begun) / done * (total - done) if done else None
        on_progress(Progress(stage=Stage.WRITING, elapsed_s=now - started, remaining_s=left))

    return report
