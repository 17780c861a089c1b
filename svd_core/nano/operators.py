"""How latents follow a photo that shifts: linear maps of neighbouring cells, by least squares."""

from dataclasses import dataclass

import torch
from torch import Tensor

from svd_core.nano.codec import encode
from svd_core.nano.shape import LATENT_CHANNELS, PATCH

KNOT_STEP = 2.0
KNOTS = 8
"""Displacements 0, 2, .. 16 pixels to either side; linear in between, constant beyond."""


@dataclass(frozen=True)
class Operators:
    """`bends[axis][side]`, shape (KNOTS + 1, LATENT_CHANNELS, 5 * LATENT_CHANNELS).

    Side 0 is motion to the right or down. The input is (cell, one back, one ahead, two back, two
    ahead); the change of the cell under displacement p is the sum over knots k of
    bends[k] @ input * max(p - KNOT_STEP * k, 0).
    """

    bends: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


def fit(photos: list[Tensor], kernel: Tensor) -> Operators:
    """Least squares over `photos`, float (3, height, width) in [-1, 1], sides multiples of 8."""
    x, y = ((_bends(photos, kernel, axis, 1), _bends(photos, kernel, axis, -1)) for axis in (0, 1))
    return Operators((x, y))


def _bends(photos: list[Tensor], kernel: Tensor, axis: int, sign: int) -> Tensor:
    steps = [round(KNOT_STEP * k) for k in range(KNOTS + 1)]
    size = 5 * LATENT_CHANNELS
    gram = torch.zeros(size, size, dtype=torch.float64)
    cross = torch.zeros(len(steps), LATENT_CHANNELS, size, dtype=torch.float64)
    for photo in photos:
        for flipped in (photo, photo.flip(1), photo.flip(2)):
            upright = flipped if axis == 0 else flipped.transpose(1, 2)
            spread = _encode_along(upright, kernel, axis, 0)
            inner = spread[:, :, 3:-3]
            roll = {d: spread[:, :, 3 + d : spread.shape[2] - 3 + d] for d in (-1, 1, -2, 2)}
            inputs = torch.cat([inner, roll[-1], roll[1], roll[-2], roll[2]])
            rows = inputs.flatten(1).double()
            gram += rows @ rows.T
            for index, step in enumerate(steps):
                moved = _encode_along(upright, kernel, axis, sign * step)[:, :, 3:-3]
                cross[index] += moved.flatten(1).double() @ rows.T
    ridge = 1e-5 * gram.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    maps = torch.linalg.solve(gram + ridge, cross.transpose(1, 2)).transpose(1, 2).float()
    maps[0] = torch.eye(LATENT_CHANNELS, size)
    slopes = maps.diff(dim=0) / KNOT_STEP
    still = torch.zeros_like(slopes[:1])
    return torch.cat([slopes, still]) - torch.cat([still, slopes])


def _encode_along(upright: Tensor, kernel: Tensor, axis: int, shift: int) -> Tensor:
    """Latents (channels, cells across, cells along) of the photo moved by `shift` pixels along its
    last side; `upright` is the photo with the axis of motion last."""
    moved = upright.roll(shift, dims=2)
    width = upright.shape[2] // PATCH * PATCH
    height = upright.shape[1] // PATCH * PATCH
    moved = moved[:, :height, :width]
    pixels = moved if axis == 0 else moved.transpose(1, 2)
    latents = encode(pixels[None], kernel)[0]
    return latents if axis == 0 else latents.transpose(1, 2)
