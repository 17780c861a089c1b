"""SVD-XT with random weights, made on the device, or its tiny likeness; and inputs for both.

Default initialisation keeps numbers near 1: times are real, pictures are not.
"""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from svd_core.benchmarks.gpu.context import Context
from svd_core.benchmarks.random_models import TINY, open_stock, random_part
from svd_core.checkpoints.table import CHECKPOINTS, Checkpoint, find_checkpoint

SHAPES = {False: (25, 72, 128), True: (3, 8, 16)}
"""Frames, height and width of the latents, by `tiny`."""

TINY_SETTINGS = {"sizes": [(128, 64), (64, 128)], "num_frames": 3, "num_inference_steps": 2}
"""In the file svd.json of the tiny checkpoint."""

TOKEN = {False: 1024, True: 64}
"""Channels of the image embedding."""


def model(context: Context, part: str, dtype: torch.dtype | None = None) -> Any:
    """`unet`, `vae` or `image_encoder`, always of the same weights on the same device."""
    return random_part(part, context.tiny, context.device, dtype or context.dtype)


def unet_inputs(context: Context, halves: int = 2) -> tuple[Tensor, ...]:
    """Latents, timestep, image embedding, and ids of time; two halves with guidance."""
    frames, height, width = SHAPES[context.tiny]
    torch.manual_seed(7)
    latents = context.randn(halves, frames, 8, height, width)
    timestep = torch.tensor(0.5, device=context.device)
    ids = torch.tensor([[6.0, 127.0, 0.02]] * halves, device=context.device, dtype=context.dtype)
    return latents, timestep, context.randn(halves, 1, TOKEN[context.tiny]), ids


def latents(context: Context) -> Tensor:
    """What the decoder gets: (frames, 4, height, width)."""
    frames, height, width = SHAPES[context.tiny]
    torch.manual_seed(5)
    return context.randn(frames, 4, height, width)


def checkpoint(context: Context, tiny: bool, single_precision: bool = False) -> Checkpoint:
    """A checkpoint folder of such weights in the scratch folder, written by the first call.

    `single_precision`: with weights in float32 as well, which a CPU reads.
    """
    folder = context.scratch / ("tiny" if tiny else "svd-xt")
    written = folder / "written"
    if not written.exists():
        _write(folder, context, tiny, single_precision or not context.cuda)
        written.touch()
    return find_checkpoint(str(folder), context.cuda)


def _write(folder: Path, context: Context, tiny: bool, single_precision: bool) -> None:
    likeness = TINY if tiny else CHECKPOINTS["svd-xt"]
    pipeline = open_stock(likeness, not tiny, "cpu" if single_precision else context.device)
    if single_precision:
        pipeline.save_pretrained(folder)
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder, variant="fp16", max_shard_size="20GB")
    about = TINY_SETTINGS if tiny else {name: getattr(likeness, name) for name in TINY_SETTINGS}
    (folder / "svd.json").write_text(json.dumps(about), encoding="utf-8")


def photo(checkpoint: Checkpoint, portrait: bool = False) -> Image.Image:
    """A picture of the checkpoint's first size, or of its second."""
    size = checkpoint.sizes[int(portrait)]
    return Image.effect_mandelbrot(size, (-2, -1, 1, 1), 50).convert("RGB")
