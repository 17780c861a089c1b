"""Latent shift: how the latents of a cell follow a photo that slides by less than a cell.

They are nearly linear maps of the cell and the one ahead, found by least squares, and then made
stronger: what cannot be foretold is missing from a mean, and texture would fade as it moves.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.training.architecture import LATENT_CHANNELS, PATCH
from svd_core.training.linear_codec import encode

FINE = 4
"""Knots in a pixel; halfway between two of them the finest texture is softened a little."""

GAIN = 1.5
"""Power of the gain that leaves each latent as strong as it was; 0 is plain least squares. More
than 1, since latents that are right in strength but not in place still cancel in the decoder."""

KNOTS = [step / FINE for step in range(PATCH * FINE + 1)]
"""Pixels."""


def fit(photos: list[Tensor], kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Bends along x and along y, each (len(KNOTS), LATENT_CHANNELS, 2 * LATENT_CHANNELS).

    A cell whose content comes from p pixels ahead, 0 <= p <= PATCH, changes by the sum over knots k
    of bends[k] @ (cell, cell ahead) * max(p - KNOTS[k], 0); beyond PATCH it stays. `photos`: float
    (3, height, width) in [-1, 1], `FINE` times larger than what is encoded, so that they can be
    shifted by parts of a pixel. They are mirrored too, so that no direction is preferred.
    """
    along_x, along_y = (_bends(photos, kernel, axis) for axis in (2, 1))
    return along_x, along_y


def _bends(photos: list[Tensor], kernel: Tensor, axis: int) -> Tensor:
    size = 2 * LATENT_CHANNELS
    gram = torch.zeros(size, size, dtype=torch.float64)
    cross = torch.zeros(len(KNOTS), LATENT_CHANNELS, size, dtype=torch.float64)
    energy = torch.zeros(len(KNOTS), LATENT_CHANNELS, dtype=torch.float64)
    for photo in photos:
        for mirrored in (photo, photo.flip(1), photo.flip(2)):
            cells = _encode(mirrored, kernel)
            count = cells.shape[axis] - 1
            rows = torch.cat([cells.narrow(axis, 0, count), cells.narrow(axis, 1, count)])
            rows = rows.flatten(1).double()
            gram += rows @ rows.T
            for shift in range(len(KNOTS)):
                ahead = mirrored.narrow(axis, shift, count * PATCH * FINE)
                wanted = _encode(ahead, kernel).flatten(1).double()
                cross[shift] += wanted @ rows.T
                energy[shift] += wanted.square().sum(dim=1)
    ridge = 1e-6 * gram.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    maps = torch.linalg.solve(gram + ridge, cross.transpose(1, 2)).transpose(1, 2)
    left = torch.einsum("kij,jl,kil->ki", maps, gram, maps)
    maps = (maps * (energy / left.clamp(min=1e-12))[..., None] ** (GAIN / 2)).float()
    maps[0] = torch.eye(LATENT_CHANNELS, size)
    maps[-1] = torch.eye(LATENT_CHANNELS, size).roll(LATENT_CHANNELS, dims=1)
    slopes = maps.diff(dim=0) * FINE
    still = torch.zeros_like(slopes[:1])
    return torch.cat([slopes, still]) - torch.cat([still, slopes])


def _encode(large: Tensor, kernel: Tensor) -> Tensor:
    return encode(F.avg_pool2d(large[None], FINE), kernel)[0]


def slide(cells: Tensor, bends: tuple[Tensor, Tensor], x: float, y: float) -> Tensor:
    """Latents (n, channels, height, width) of a photo seen `x` and `y` pixels further right and
    down, 0..PATCH; (n, channels, height - 1, width - 1), as the last cells have none ahead."""
    for dim, pixels, axis_bends in ((3, x, bends[0]), (2, y, bends[1])):
        count = cells.shape[dim] - 1
        here, ahead = cells.narrow(dim, 0, count), cells.narrow(dim, 1, count)
        change = sum(
            max(pixels - knot, 0.0) * bend for knot, bend in zip(KNOTS, axis_bends, strict=True)
        )
        rows = torch.cat([here, ahead], dim=1)
        cells = here + torch.einsum("ij,njhw->nihw", change, rows)
    return cells
