"""One video through a loaded pipeline: encode, denoise, decode, each part with a sign of life."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from svd_core.clip import Frames
from svd_core.errors import GenerationFailed
from svd_core.events import OnProgress
from svd_core.pace import Pace
from svd_core.params import VideoParams
from svd_core.preview import Sketch

NOT_A_NUMBER = (
    "The model gave numbers that are no picture (NaN or infinite). Try another seed or less "
    "noise_aug_strength; if it happens each time, the checkpoint does not suit this device."
)


def make_frames(
    pipeline: Any,
    image: Image.Image,
    params: VideoParams,
    conditioning_fps: int,
    pace: Pace,
    on_progress: OnProgress,
) -> Frames:
    """Frames of shape (num_frames, height, width, 3), the size of `image`.

    `params`: without None but for `playback_fps`. What `on_progress` raises comes out at once;
    the caller then makes the pipeline ready again. Raises `GenerationFailed` for NaN.
    """
    assert params.num_inference_steps is not None
    scaling = pipeline.vae.config.scaling_factor
    sketch = Sketch(image, params.num_inference_steps, params.rate, scaling)

    def encoded(_: Any, given: tuple[Any, ...]) -> None:
        handle.remove()
        sketch.learn(given[0])
        on_progress(pace.encoded())

    def stepped(_: Any, step: int, __: Any, found: dict[str, Any]) -> dict[str, Any]:
        if not torch.isfinite(found["latents"]).all():
            raise GenerationFailed(NOT_A_NUMBER)
        preview = sketch.after(step + 1)
        on_progress(replace(pace.stepped(step + 1), preview=preview))
        return found

    handle = pipeline.unet.register_forward_pre_hook(encoded)
    try:
        with sketch.watching(pipeline.scheduler):
            latents = pipeline(
                image,
                width=image.width,
                height=image.height,
                num_frames=params.num_frames,
                num_inference_steps=params.num_inference_steps,
                min_guidance_scale=params.min_guidance_scale,
                max_guidance_scale=params.max_guidance_scale,
                fps=conditioning_fps,
                motion_bucket_id=params.motion_bucket_id,
                noise_aug_strength=params.noise_aug_strength,
                decode_chunk_size=params.decode_chunk_size,
                generator=torch.Generator("cpu").manual_seed(params.seed),
                callback_on_step_end=stepped,
                output_type="latent",
            ).frames
    finally:
        handle.remove()
    assert params.decode_chunk_size is not None
    return decode(pipeline.vae, latents[0], params.decode_chunk_size, pace, on_progress)


@torch.no_grad()
def decode(
    vae: Any, latents: torch.Tensor, chunk_size: int, pace: Pace, on_progress: OnProgress
) -> Frames:
    """`latents` of shape (num_frames, channels, height / 8, width / 8) as frames.

    Gives the very pixels of diffusers' own `decode_latents` and `postprocess_video`, but holds
    one chunk in floating point instead of the whole video three times, and reports each chunk.
    """
    on_progress(pace.decoded(0))
    latents = 1 / vae.config.scaling_factor * latents
    dtype = next(vae.decoder.parameters()).dtype
    if dtype == torch.bfloat16:  # then the weights lie so, see `loading.place`
        latents = latents.to(dtype, memory_format=torch.channels_last)
    chunks: list[Frames] = []
    done = 0
    for chunk in torch.split(latents, chunk_size):
        pixels = vae.decode(chunk, num_frames=len(chunk)).sample.float()
        if not torch.isfinite(pixels).all():
            raise GenerationFailed(NOT_A_NUMBER)
        pixels = (pixels * 0.5 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
        chunks.append(pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy())
        done += len(chunk)
        on_progress(pace.decoded(done))
    return np.concatenate(chunks)
