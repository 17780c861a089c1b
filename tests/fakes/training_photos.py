"""Synthetic photos and small helpers for the tests of svd-nano's training."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from svd_core.training import warp_attention
from svd_core.training.vae import encoding_kernel, principal_components


def smooth_photo(width: int, height: int, seed: int = 0) -> Tensor:
    """A picture of soft blobs, (3, height, width) in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, 3, height // 16, width // 16, generator=generator)
    blobs = torch.nn.functional.interpolate(noise, (height, width), mode="bicubic")
    return blobs[0].clamp(-1, 1)


def enlarged(photo: Tensor) -> Tensor:
    """`photo` in the size that `warp_attention.fit_latent_shift` wants."""
    times = float(warp_attention.KNOTS_PER_PIXEL)
    return torch.nn.functional.interpolate(photo[None], scale_factor=times, mode="bicubic")[0]


def smooth_kernel() -> Tensor:
    pictures = [smooth_photo(128, 96, seed) for seed in range(6)]
    components, deviations = principal_components(pictures)
    return encoding_kernel(components, deviations.clamp(min=0.05))


def save_photos(folder: Path, count: int = 3) -> dict[str, Path]:
    folder.mkdir()
    for seed in range(count):
        pixels = ((smooth_photo(160, 120, seed) + 1) * 127.5).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return {path.stem: path for path in folder.iterdir()}
