"""Warp attention: attention fetches whole cells, GEGLU shifts within the cell.

Stock attention samples the photo at given places, as a spatial transformer does (arXiv 1506.02025).
Queries and keys are sinusoids of place. Their product is largest if key and query are the same
cell. Four heads fetch the four cells around a place. One head fetches the cell itself, to subtract
it, and one the coordinates of the fetched cell. The rest is a shift by less than a cell.

That shift is piecewise linear in the distance, and nearly linear in the latents of a cell and of
the next one. `fit_latent_shift` fits it by least squares, and then amplifies it: a mean lacks all
unpredictable detail, and texture would fade as it moves.
"""

from math import pi

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.training.architecture import HEADS, LATENT_CHANNELS, PATCH, UNET_WIDTH, Net
from svd_core.training.handwritten_layers import (
    CELL_UNIT,
    PHOTO,
    PLACES,
    GegluBuilder,
    TokenChannels,
)
from svd_core.training.vae import encode

KNOTS_PER_PIXEL = 4
"""Knots per pixel. Halfway between two knots, the finest texture is a little softer."""

SHIFT_GAIN = 1.5
"""Power of the gain that keeps the strength of each latent; 0 is plain least squares. It is above
1, since latents of the right strength at a wrong place still cancel in the decoder."""

KNOTS = [step / KNOTS_PER_PIXEL for step in range(PATCH * KNOTS_PER_PIXEL + 1)]
"""Pixels at which the slope of the shift changes."""


def fit_latent_shift(photos: list[Tensor], kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Fit slope changes ("bends") along x and y, each (knots, channels, 2 * channels).

    A cell whose content comes from p pixels ahead, 0 <= p <= PATCH, changes by the sum over knots k
    of bends[k] @ (cell, cell ahead) * max(p - KNOTS[k], 0); beyond PATCH it stays.

    `photos`: float (3, height, width) in [-1, 1], `KNOTS_PER_PIXEL` times larger than the encoded
    pictures, for shifts by parts of a pixel. They are mirrored too, so that no direction is
    preferred.
    """
    along_x, along_y = (_fit_axis(photos, kernel, axis) for axis in (2, 1))
    return along_x, along_y


def _fit_axis(photos: list[Tensor], kernel: Tensor, axis: int) -> Tensor:
    size = 2 * LATENT_CHANNELS
    gram = torch.zeros(size, size, dtype=torch.float64)
    cross = torch.zeros(len(KNOTS), LATENT_CHANNELS, size, dtype=torch.float64)
    energy = torch.zeros(len(KNOTS), LATENT_CHANNELS, dtype=torch.float64)
    for photo in photos:
        for mirrored in (photo, photo.flip(1), photo.flip(2)):
            cells = _encode_reduced(mirrored, kernel)
            count = cells.shape[axis] - 1
            rows = torch.cat([cells.narrow(axis, 0, count), cells.narrow(axis, 1, count)])
            rows = rows.flatten(1).double()
            gram += rows @ rows.T
            for shift in range(len(KNOTS)):
                ahead = mirrored.narrow(axis, shift, count * PATCH * KNOTS_PER_PIXEL)
                target = _encode_reduced(ahead, kernel).flatten(1).double()
                cross[shift] += target @ rows.T
                energy[shift] += target.square().sum(dim=1)
    ridge = 1e-6 * gram.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    maps = torch.linalg.solve(gram + ridge, cross.transpose(1, 2)).transpose(1, 2)
    left = torch.einsum("kij,jl,kil->ki", maps, gram, maps)
    maps = (maps * (energy / left.clamp(min=1e-12))[..., None] ** (SHIFT_GAIN / 2)).float()
    maps[0] = torch.eye(LATENT_CHANNELS, size)
    maps[-1] = torch.eye(LATENT_CHANNELS, size).roll(LATENT_CHANNELS, dims=1)
    slopes = maps.diff(dim=0) * KNOTS_PER_PIXEL
    still = torch.zeros_like(slopes[:1])
    return torch.cat([slopes, still]) - torch.cat([still, slopes])


def _encode_reduced(large: Tensor, kernel: Tensor) -> Tensor:
    return encode(F.avg_pool2d(large[None], KNOTS_PER_PIXEL), kernel)[0]


def shift_latents(cells: Tensor, bends: tuple[Tensor, Tensor], x: float, y: float) -> Tensor:
    """Shift latents (n, channels, height, width) right and down by `x`, `y` pixels, 0..PATCH.

    Returns (n, channels, height - 1, width - 1), as the last cells have none ahead.
    """
    for dim, pixels, axis_bends in ((3, x, bends[0]), (2, y, bends[1])):
        count = cells.shape[dim] - 1
        here, ahead = cells.narrow(dim, 0, count), cells.narrow(dim, 1, count)
        change = sum(
            max(pixels - knot, 0.0) * bend for knot, bend in zip(KNOTS, axis_bends, strict=True)
        )
        rows = torch.cat([here, ahead], dim=1)
        cells = here + torch.einsum("ij,njhw->nihw", change, rows)
    return cells


PERIODS = (4.0, 24.0, 144.0)
"""Periods of the sinusoids in cells. The first separates neighbours. Each later one separates cells
that are alike for the one before."""

STRENGTHS = (4e8, 8e7, 8e7)
"""Weights of the sinusoids in the logits. Two cells are mixed only where a place is within a
ten-millionth of the border between them, about the resolution of single precision. The first may be
at most 80 times the others, or its rounding hides them."""

PREVIOUS_CELL_OFFSET = 0.475
"""Cells subtracted from a place. The nearest cell is then the one before the place, or the place
itself if it is a whole cell, with a margin for rounding."""

SHIFT_RANGE = (0.01, 0.95)
"""Parts of a cell between which the content shifts. Outside of them, it is the content of one of
the two cells. So rounding may put a place on either side of the border between two cells, and the
output still has no jump."""

MAX_CELLS = 128
"""Cells of the longest side."""

BORDER_MARGIN = 0.012
"""Cells between the switches of the heads at a border of two cells, where they may round
differently.

Heads of the far cells switch later than the head of the coordinates, heads of the near cells
earlier. Around the border, `SHIFT_RANGE` selects the far cell and then the near one. Both are then
the cell that the place reaches next. Places are exact to 0.003 cells, most to a tenth of that."""

CORNERS = {"here": (0, 0), "right": (1, 0), "below": (0, 1), "corner": (1, 1)}
HEAD_CHANNELS = UNET_WIDTH // HEADS


def write_warp_attention(transformer: Net, bends: tuple[Tensor, Tensor]) -> None:
    """Write the sampler into `transformer`, from channels `photo_*`, `x`, `y`, `from_x`, `from_y`
    into channels `moved_*`. `bends`: as `fit_latent_shift` returns them."""
    fetched = [f"{corner}_{j}" for corner in CORNERS for j in range(LATENT_CHANNELS)]
    waves = [f"{kind}_{wave}" for kind in ("key", "query") for wave in range(4 * len(PERIODS))]
    tokens = TokenChannels([*fetched, *PLACES, "at_x", "at_y", *waves])
    tokens.open(transformer, PLACES)
    tokens.enter(transformer, {f"here_{j}": name for j, name in enumerate(PHOTO)})
    first, second = transformer.transformer_blocks
    first_in_time, second_in_time = transformer.temporal_transformer_blocks
    _write_sinusoids(GegluBuilder(first.ff), tokens, "key", "", 0.0)
    _write_sinusoids(
        GegluBuilder(first_in_time.ff_in), tokens, "query", "from_", PREVIOUS_CELL_OFFSET
    )
    _fetch_cells(second.attn1, tokens)
    across, down = (_shift_row(tokens, axis) for axis in "xy")
    _shift_within_cell(GegluBuilder(second.ff), tokens, bends[0], across, "here", "right")
    _shift_within_cell(
        GegluBuilder(second_in_time.ff_in), tokens, bends[0], across, "below", "corner"
    )
    _shift_within_cell(GegluBuilder(second_in_time.ff), tokens, bends[1], down, "here", "below")
    overlaid = dict(enumerate(PLACES, start=LATENT_CHANNELS - len(PLACES)))
    for j in range(LATENT_CHANNELS):
        tokens.close(transformer, f"here_{j}", f"moved_{j}", less=overlaid.get(j))


def _shift_row(tokens: TokenChannels, axis: str) -> Tensor:
    """Row of the pixels, 0..PATCH, by which the content of a cell has shifted along `axis`."""
    start, end = SHIFT_RANGE
    cells = CELL_UNIT * (tokens.read(f"from_{axis}") - tokens.read(f"at_{axis}"))
    return PATCH / (end - start) * (cells - tokens.one(start))


def _write_sinusoids(
    products: GegluBuilder, tokens: TokenChannels, kind: str, source: str, offset: float
) -> None:
    """Write sinusoids of `source` minus `offset` cells: exact at whole cells, linear between."""
    cells = torch.arange(-2, MAX_CELLS + 1).float()
    for axis in (0, 1):
        columns, values = [], []
        for number, period in enumerate(PERIODS):
            for part, wave in enumerate((torch.cos, torch.sin)):
                columns.append(tokens.write(f"{kind}_{_sinusoid(axis, number, part)}"))
                values.append(wave(2 * pi / period * cells))
        table = torch.stack(values, dim=1) @ torch.stack(columns)  # (cells, width)
        slopes = table.diff(dim=0)
        bends = torch.cat([slopes[:1], slopes.diff(dim=0)]) * CELL_UNIT
        place = tokens.read(f"{source}{'xy'[axis]}") - offset / CELL_UNIT * tokens.one()
        products.add(tokens.one(), tokens.one(), table[0])
        products.bend(tokens.one(), place, [float(c) / CELL_UNIT for c in cells[:-1]], bends)


def _sinusoid(axis: int, number: int, part: int) -> int:
    return 2 * (len(PERIODS) * axis + number) + part


def _fetch_cells(attention: Net, tokens: TokenChannels) -> None:
    sources = [f"here_{j}" for j in range(LATENT_CHANNELS)]
    heads = [
        ("query", corner, (x + BORDER_MARGIN * (1 - 2 * x), y + BORDER_MARGIN * (1 - 2 * y)))
        for corner, (x, y) in CORNERS.items()
    ]
    for head, (kind, corner, offset) in enumerate([*heads, ("key", "here", (0.0, 0.0))]):
        sign = -1.0 if kind == "key" else 1.0  # the cell itself is subtracted
        _attend(attention, tokens, head, kind, offset)
        for j, source in enumerate(sources):
            attention.to_v.weight[HEAD_CHANNELS * head + j] = tokens.read(source)
            target = tokens.write(f"{corner}_{j}", sign)
            attention.to_out[0].weight[:, HEAD_CHANNELS * head + j] = target
    head = len(heads) + 1
    _attend(attention, tokens, head, "query", (0.0, 0.0))
    for index, axis in enumerate("xy"):
        attention.to_v.weight[HEAD_CHANNELS * head + index] = tokens.read(axis)
        attention.to_out[0].weight[:, HEAD_CHANNELS * head + index] = tokens.write(f"at_{axis}")


def _attend(
    attention: Net, tokens: TokenChannels, head: int, kind: str, offset: tuple[float, float]
) -> None:
    """Let `head` attend to the cell whose key is the sinusoid of `kind`, `offset` cells on."""
    for axis in (0, 1):
        for number, (period, strength) in enumerate(zip(PERIODS, STRENGTHS, strict=True)):
            angle = torch.tensor(2 * pi / period * offset[axis])
            cos, sin = (tokens.read(f"{kind}_{_sinusoid(axis, number, part)}") for part in (0, 1))
            turned = (cos * angle.cos() - sin * angle.sin(), sin * angle.cos() + cos * angle.sin())
            for part in (0, 1):
                wave = _sinusoid(axis, number, part)
                unit = HEAD_CHANNELS * head + wave
                attention.to_q.weight[unit] = strength * HEAD_CHANNELS**0.5 * turned[part]
                attention.to_k.weight[unit] = tokens.read(f"key_{wave}")


def _shift_within_cell(
    products: GegluBuilder,
    tokens: TokenChannels,
    bends: Tensor,
    pixels: Tensor,
    cell: str,
    ahead: str,
) -> None:
    """Shift `cell` towards `ahead` by the value of row `pixels`."""
    names = [f"{kind}_{j}" for kind in (cell, ahead) for j in range(LATENT_CHANNELS)]
    rows = torch.stack([tokens.read(name) for name in names])
    for knot, bend in zip(KNOTS, bends, strict=True):
        for j, value in enumerate(bend @ rows):
            gate = pixels - knot * tokens.one()
            products.add(value, gate, tokens.write(f"{cell}_{j}"))
