"""Request defaults from the checkpoint, and warnings about values that it was not trained for."""

from dataclasses import replace

from svd_core.checkpoints.speed_modes import MAX_TURBO_STEPS, at_speed
from svd_core.checkpoints.table import Checkpoint
from svd_core.errors import InvalidRequest
from svd_core.messages import Message
from svd_core.params import VideoParams

TRAINED_FPS = (5, 30)
"""Range of fps outside of which SVD's own sampling script warns that the result may be poor."""


def with_defaults(params: VideoParams, checkpoint: Checkpoint, chunk_size: int) -> VideoParams:
    """`params` with every None replaced by the checkpoint's default, or by the plan's chunk size.

    Raises `InvalidRequest` for guidance that falls from the first frame to the last: diffusers then
    mixes up its batches.
    """
    low, high = params.min_guidance_scale, params.max_guidance_scale
    if low is not None and high is not None and low > high:
        names = {"field": "max_guidance_scale", "other_field": "min_guidance_scale"}
        raise InvalidRequest("guidance_falls", **names, low=low, high=high)
    if params.speed == "turbo" and (params.num_inference_steps or 0) > MAX_TURBO_STEPS:
        raise InvalidRequest(
            "turbo_steps_exceeded", field="num_inference_steps", most=MAX_TURBO_STEPS
        )
    checkpoint = at_speed(checkpoint, params.speed)
    default = checkpoint.max_guidance_scale
    if low is None:
        low = min(checkpoint.min_guidance_scale, default if high is None else high)
    if high is None:
        high = max(default, low)
    num_frames = params.num_frames or checkpoint.num_frames
    return replace(
        params,
        num_frames=num_frames,
        num_inference_steps=params.num_inference_steps or checkpoint.num_inference_steps,
        min_guidance_scale=low,
        max_guidance_scale=high,
        decode_chunk_size=min(params.decode_chunk_size or chunk_size, num_frames),
        playback_fps=params.rate,
        model=checkpoint.name,
    )


def clamp_fps(fps: int) -> int:
    """`fps` for conditioning, clamped to the trained range."""
    return max(TRAINED_FPS[0], min(fps, TRAINED_FPS[1]))


def warnings_for(params: VideoParams, checkpoint: Checkpoint) -> tuple[Message, ...]:
    """Messages about values that the model was not trained for."""
    notes = []
    fps = clamp_fps(params.fps)
    if fps != params.fps:
        least, most = TRAINED_FPS
        notes.append(Message("fps_clamped", least=least, most=most, used=fps, rate=params.rate))
    if (params.num_frames or 0) > checkpoint.num_frames:
        frames = checkpoint.num_frames
        notes.append(Message("frames_untrained", model=checkpoint.name, frames=frames))
    return tuple(notes)
