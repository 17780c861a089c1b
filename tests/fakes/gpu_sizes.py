"""Pretended GPUs of several sizes, with the memory plans that SVD-XT gets there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from svd_core.checkpoints.memory_plan import (
    Device,
    MemoryPlan,
    ModelSizes,
    OffloadSetting,
    plan_memory,
)
from svd_core.checkpoints.table import CHECKPOINTS, Checkpoint
from svd_core.engine import loaded_model, memory_fallback, pipeline_loader
from svd_core.engine.engine import SvdEngine
from svd_core.events import OnProgress
from svd_core.params import VideoParams
from svd_core.types import GenerationResult
from tests.fakes.pretend_cuda import PretendCuda, pretend_cuda
from tests.fakes.tiny_checkpoint import NUM_FRAMES, PHOTO

XT = CHECKPOINTS["svd-xt"]
SIZES = (24, 22, 16, 12, 8, 6)
"""Gigabytes that are free."""


def gpu_device(free_bytes: float) -> Device:
    total = max(int(free_bytes), 8 * 10**9)
    return Device(kind="cuda", name="pretended", total_bytes=total, free_bytes=int(free_bytes))


def plan_of_svd_xt(
    device: Device, _: Checkpoint, __: ModelSizes | None = None, offload: OffloadSetting = "auto"
) -> MemoryPlan:
    """SVD-XT's plan for `device`, with its slices of frames cut down to those of a short clip."""
    found = plan_memory(device, XT, ModelSizes(), offload)
    whole = found.decode_chunk_size == XT.num_frames
    chunk = NUM_FRAMES if whole else min(found.decode_chunk_size, NUM_FRAMES - 1)
    return replace(found, decode_chunk_size=chunk)


@contextmanager
def gpu_of(gigabytes: float) -> Iterator[PretendCuda]:
    """A pretended GPU with so much free."""
    with pytest.MonkeyPatch.context() as patch, pretend_cuda() as gpu:
        gpu.free_bytes = int(gigabytes * 1e9)
        patch.setattr(pipeline_loader, "find_device", lambda: gpu_device(gpu.free_bytes))
        patch.setattr(
            loaded_model,
            "available_memory",
            lambda chosen: gpu.free_bytes if chosen.device == "cuda" else None,
        )
        patch.setattr(memory_fallback, "plan_memory", plan_of_svd_xt)
        yield gpu


def make(
    engine: SvdEngine,
    on_progress: OnProgress = lambda _: None,
    image: Image.Image = PHOTO,
    **params: Any,
) -> GenerationResult:
    asked = VideoParams(**{"seed": 1, "num_inference_steps": 2, **params})
    return engine.generate(image, asked, on_progress)


def levels(one: GenerationResult, other: GenerationResult) -> int:
    """Largest difference of two pixels, of 255."""
    assert one.frames.shape == other.frames.shape
    return int(np.abs(one.frames.astype(int) - other.frames).max())


def pipeline_of(engine: SvdEngine) -> Any:
    assert engine._loaded is not None
    return engine._loaded._pipeline


def plan_in(engine: SvdEngine) -> MemoryPlan:
    assert engine._loaded is not None
    return engine._loaded._memory.current


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.27 GiB.")

PLACES: dict[str, Callable[[Any], Any]] = {
    "image encoder": lambda pipeline: pipeline.image_encoder,
    "VAE encoder": lambda pipeline: pipeline.vae.encoder,
    "UNet": lambda pipeline: pipeline.unet.mid_block,
    "decoder": lambda pipeline: pipeline.vae.decoder.conv_out,
}


@contextmanager
def running_out(
    engine: SvdEngine, place: str, times: int = 1, error: Exception = OUT_OF_MEMORY
) -> Iterator[None]:
    """The next `times` calls of what is at `place` in the pipeline raise `error`."""
    left = times

    def fail(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise error

    hook = PLACES[place](pipeline_of(engine)).register_forward_pre_hook(fail)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def placing_runs_out(times: int, error: Exception = OUT_OF_MEMORY) -> Iterator[None]:
    """The next `times` times that weights are placed, memory runs out in the middle of it."""
    left, place = times, loaded_model.place

    def fail(pipeline: Any, chosen: MemoryPlan, compiled: bool = False) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            pipeline.remove_all_hooks()
            pipeline.vae.to("cuda")
            raise error
        place(pipeline, chosen, compiled)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaded_model, "place", fail)
        yield
