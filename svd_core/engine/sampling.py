"""Sampling of one clip by the SVD pipeline (encode, denoise, decode), with progress reports."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from svd_core.checkpoints.eta import ProgressEstimator
from svd_core.engine.optimizations.schedulers import use_scheduler
from svd_core.engine.optimizations.vae_decode import chunked_decode
from svd_core.engine.preview import LatentPreview
from svd_core.engine.step_progress import count_step
from svd_core.errors import GenerationFailed
from svd_core.events import OnProgress, Progress
from svd_core.params import VideoParams
from svd_core.types import Frames


def sample_frames(
    pipeline: Any,
    image: Image.Image,
    params: VideoParams,
    conditioning_fps: int,
    estimator: ProgressEstimator,
    on_progress: OnProgress,
    whole_clip: bool = True,
) -> Frames:
    """Frames of shape (num_frames, height, width, 3), the size of `image`.

    `params`: no field is None, except perhaps `playback_fps`. `on_progress` may raise to stop; the
    caller then makes the pipeline ready again. Raises `GenerationFailed` for NaN.
    """
    assert params.num_inference_steps is not None
    scaling = pipeline.vae.config.scaling_factor
    latent_preview = LatentPreview(image, params.num_inference_steps, params.rate, scaling)

    def on_first_call(_: Any, args: tuple[Any, ...]) -> None:
        handle.remove()
        latent_preview.fit(args[0])
        on_progress(estimator.encoded())

    def on_step_end(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if not torch.isfinite(tensors["latents"]).all():
            raise GenerationFailed("model_gave_nan")
        preview = latent_preview.preview(step + 1)
        on_progress(replace(estimator.step_done(step + 1), preview=preview))
        return tensors

    def on_share(share: float) -> None:
        if (progress := estimator.within_step(share)) is not None:
            on_progress(progress)

    def on_decoding(progress: Progress) -> None:
        on_progress(replace(progress, preview=latent_preview.newest()))

    counted = count_step(pipeline.unet, on_share) if estimator.on_cpu else nullcontext()
    with latent_preview:
        handle = pipeline.unet.register_forward_pre_hook(on_first_call)
        try:
            with (
                use_scheduler(pipeline, params),
                latent_preview.record(pipeline.scheduler),
                counted,
            ):
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
                    latents=_initial_noise(pipeline, image, params),
                    callback_on_step_end=on_step_end,
                    output_type="latent",
                ).frames
        finally:
            handle.remove()
        vae, chunk_size = pipeline.vae, params.decode_chunk_size
        assert chunk_size is not None
        with pipeline.kernels.convolutions():
            return decode_latents(vae, latents[0], chunk_size, estimator, on_decoding, whole_clip)


def _initial_noise(pipeline: Any, image: Image.Image, params: VideoParams) -> torch.Tensor:
    """Initial latents of the clip: the same draw as the pipeline's, but in float32, then rounded.

    Torch before 2.13 draws other numbers in half precision, so a seed would give another video.
    """
    assert params.num_frames is not None
    generator = torch.Generator("cpu").manual_seed(params.seed)
    torch.randn((1, 3, image.height, image.width), generator=generator)  # the photo's noise
    scale, channels = pipeline.vae_scale_factor, pipeline.unet.config.in_channels // 2
    shape = (1, params.num_frames, channels, image.height // scale, image.width // scale)
    return torch.randn(shape, generator=generator).to(pipeline.image_encoder.dtype)


@torch.no_grad()
def decode_latents(
    vae: Any,
    latents: torch.Tensor,
    chunk_size: int,
    estimator: ProgressEstimator,
    on_progress: OnProgress,
    whole_clip: bool = True,
) -> Frames:
    """Decode `latents` (num_frames, channels, height / 8, width / 8) to frames, with progress.

    The pixels are those of diffusers' `decode_latents` and `postprocess_video` with all frames
    decoded at once. `chunk_size` only sets how many frames are in memory between the layers that
    see them all. Without `whole_clip` each chunk is decoded as a clip of its own, as in stock.
    """
    on_progress(estimator.frames_decoded(0))
    latents = 1 / vae.config.scaling_factor * latents
    dtype = next(vae.decoder.parameters()).dtype
    if dtype == torch.bfloat16:  # as the weights, see `pipeline_loader.place`
        latents = latents.to(dtype, memory_format=torch.channels_last)
    if not whole_clip or chunk_size >= len(latents):
        chunks: list[Frames] = []
        for start in range(0, len(latents), chunk_size):
            chunk = latents[start : start + chunk_size]
            chunks.append(_to_frames(vae.decode(chunk, num_frames=len(chunk)).sample))
            on_progress(estimator.frames_decoded(start + len(chunk)))
        return np.concatenate(chunks)

    reported = 0

    def report(share: float) -> None:
        nonlocal reported
        done = round(share * len(latents))
        if done > reported:
            reported = done
            on_progress(estimator.frames_decoded(done))

    with chunked_decode(vae.decoder, chunk_size, report):
        pixels = vae.decode(latents, num_frames=len(latents)).sample
    return np.concatenate([_to_frames(chunk) for chunk in torch.split(pixels, chunk_size)])


def _to_frames(pixels: torch.Tensor) -> Frames:
    """Decoded `pixels` (frames, 3, height, width) in -1..1 as frames, rounded on their device."""
    pixels = pixels.float()
    if not torch.isfinite(pixels).all():
        raise GenerationFailed("model_gave_nan")
    pixels = (pixels * 0.5 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
