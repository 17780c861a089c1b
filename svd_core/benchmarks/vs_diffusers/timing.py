"""Timing of one clip, stage by stage, with its peak memory."""

import gc
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from svd_core.checkpoints.eta import ProgressEstimator
from svd_core.engine.optimizations.schedulers import use_scheduler
from svd_core.engine.sampling import decode_latents
from svd_core.params import VideoParams
from svd_core.types import Frames

FPS = 7


@dataclass(frozen=True)
class ClipTiming:
    """Timing of one clip, with its outputs.

    `unet_inputs`, `unet_output`: of the first step. Seconds: of the clip, of all processors
    (`cpu_s`), of encoding, of one step, and of decoding to pictures. `peak_mb`: peak memory above
    that before the clip.
    """

    unet_inputs: tuple[Any, ...]
    unet_output: Tensor
    latents: Tensor
    frames: Frames
    seconds: float
    cpu_s: float
    encode_s: float
    step_s: float
    decode_s: float
    peak_mb: float

    def figures(self) -> dict[str, float]:
        """Seconds and megabytes by name."""
        names = ("seconds", "cpu_s", "encode_s", "step_s", "decode_s", "peak_mb")
        return {name: getattr(self, name) for name in names}


def time_clip(
    pipeline: Any, ours: bool, image: Image.Image, params: VideoParams, device: str
) -> ClipTiming:
    """Time a clip of complete `params`, decoded by the code of stock or by ours.

    The same seed gives every variant the same initial latents.
    """

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    begin, cpu, at_rest = now(), time.process_time(), _reset_peak(device)
    marks: list[float] = []
    outputs: list[tuple[Any, ...]] = []

    def record_start(*_: Any) -> None:
        if not marks:
            marks.append(now())

    def record_unet(_: Any, inputs: tuple[Any, ...], more: dict[str, Any], output: Any) -> None:
        if not outputs:
            outputs.append((*inputs, more, output[0]))

    def record_step(_: Any, __: int, ___: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        marks.append(now())
        return kwargs

    hooks = [
        pipeline.unet.register_forward_pre_hook(record_start),
        pipeline.unet.register_forward_hook(record_unet, with_kwargs=True),
    ]
    at_speed = nullcontext() if params.speed == "exact" else use_scheduler(pipeline, params)
    try:
        with at_speed:
            latents = pipeline(
                image, width=image.width, height=image.height, fps=FPS,
                num_frames=params.num_frames, num_inference_steps=params.num_inference_steps,
                min_guidance_scale=params.min_guidance_scale,
                max_guidance_scale=params.max_guidance_scale,
                decode_chunk_size=params.decode_chunk_size,
                generator=torch.Generator("cpu").manual_seed(params.seed),
                callback_on_step_end=record_step, output_type="latent",
            ).frames  # fmt: skip
    finally:
        for hook in hooks:
            hook.remove()
    frames = (_our_frames if ours else _stock_frames)(pipeline, latents, params)
    end = now()
    *inputs, output = outputs[0]
    return ClipTiming(
        unet_inputs=tuple(inputs),
        unet_output=output.float().cpu(),
        latents=latents.float().cpu(),
        frames=frames,
        seconds=end - begin,
        cpu_s=time.process_time() - cpu,
        encode_s=marks[0] - begin,
        step_s=(marks[-1] - marks[0]) / (len(marks) - 1),
        decode_s=end - marks[-1],
        peak_mb=(_peak(device) - at_rest) / 1e6,
    )


def _our_frames(pipeline: Any, latents: Tensor, params: VideoParams) -> Frames:
    return decode_clip(pipeline.vae, latents[0], params.decode_chunk_size or 1)


def decode_clip(vae: Any, latents: Tensor, chunk_size: int) -> Frames:
    """Decode latents (frames, channels, height, width) by our code, without progress events."""
    on_cpu = latents.device.type == "cpu"
    estimator = ProgressEstimator(num_steps=1, num_frames=len(latents), on_cpu=on_cpu)
    return decode_latents(vae, latents, chunk_size, estimator, lambda _: None)


@torch.no_grad()
def _stock_frames(pipeline: Any, latents: Tensor, params: VideoParams) -> Frames:
    """Decode as `StableVideoDiffusionPipeline.__call__` by default: in the decoder's precision, all
    frames at once."""
    latents = latents.to(next(pipeline.vae.decoder.parameters()).dtype)
    video = pipeline.decode_latents(latents, params.num_frames, latents.shape[1])
    pictures = pipeline.video_processor.postprocess_video(video, output_type="pil")[0]
    return np.stack([np.asarray(picture) for picture in pictures])


def _reset_peak(device: str) -> float:
    """Reset the peak of memory; returns the bytes in use."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return float(torch.cuda.memory_allocated())
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")
    return _status("VmRSS")


def _peak(device: str) -> float:
    return float(torch.cuda.max_memory_allocated()) if device == "cuda" else _status("VmHWM")


def _status(name: str) -> float:
    """A memory field of Linux's /proc/self/status in bytes; 0 on other systems."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(float(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
