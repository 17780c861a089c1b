"""Warp attention: attention fetches whole cells, GEGLU shifts within the cell.

Spatial transformers (arXiv 1506.02025) sample a picture at given places; here stock attention does.
Queries and keys are sinusoids of place, so that their product is largest where a key's cell is the
query's: four heads fetch the four cells around a place, one fetches the cell itself, to take it
off, and one the coordinates that were hit. What is left is a shift by less than a cell, linear in
the latents (`latent_shift`) and piecewise linear in the distance.
"""

from math import pi

import torch
from torch import Tensor

from svd_core.training.architecture import HEADS, LATENT_CHANNELS, PATCH, UNET_WIDTH, Net
from svd_core.training.channel_layout import PLACES, UNIT
from svd_core.training.handwritten_layers import GegluBuilder, TokenChannels
from svd_core.training.latent_shift import KNOTS

PERIODS = (4.0, 24.0, 144.0)
"""Cells. The first tells neighbours apart, each other what the one before it confuses."""

STRENGTHS = (4e8, 8e7, 8e7)
"""What a sinusoid counts in the logits: so much that two cells are mixed only where a place lies
within a ten-millionth of the border between them, which is about what single precision can tell.
The first may be at most 80 times the others, or its rounding hides what they tell apart."""

PREVIOUS_CELL_OFFSET = 0.475
"""Cells. The nearest cell to `place - EARLY` is the one before it, and `place` itself where that is
a whole cell, with some margin for rounding."""

SLIDE_RANGE = (0.01, 0.95)
"""Parts of a cell, between which the content slides. Before and beyond them it stands on the one
cell or the other, so that it makes no difference on which side of the border between two cells
rounding puts a place: the answer follows the place without a jump."""

CELLS = 128
"""Of the longest side."""

LEEWAY = 0.012
"""Cells. On the border between two cells heads may round differently. So those that fetch the far
cells go on to the next one later than the head that tells where this is, and those that fetch the
near ones earlier: around the border, where `SLIDE_RANGE` has the far cell shown and then the near
one, both are the cell that the place has all but reached. Places are right to 0.003 cells, most of
them to a tenth of that."""

CORNERS = {"here": (0, 0), "right": (1, 0), "below": (0, 1), "corner": (1, 1)}
HEAD = UNET_WIDTH // HEADS


def write(transformer: Net, bends: tuple[Tensor, Tensor]) -> None:
    """Write the sampler into `transformer`, from channels `photo_*`, `x`, `y`, `from_x`, `from_y`
    into channels `moved_*`. `bends`: as `latent_shift.fit` gives them."""
    fetched = [f"{corner}_{j}" for corner in CORNERS for j in range(LATENT_CHANNELS)]
    waves = [f"{kind}_{wave}" for kind in ("key", "query") for wave in range(4 * len(PERIODS))]
    tokens = TokenChannels([*fetched, *PLACES, "at_x", "at_y", *waves])
    tokens.open(transformer, PLACES)
    tokens.enter(transformer, {f"here_{j}": f"photo_{j}" for j in range(LATENT_CHANNELS)})
    first, second = transformer.transformer_blocks
    first_in_time, second_in_time = transformer.temporal_transformer_blocks
    _write_waves(GegluBuilder(first.ff), tokens, "key", "", 0.0)
    _write_waves(GegluBuilder(first_in_time.ff_in), tokens, "query", "from_", PREVIOUS_CELL_OFFSET)
    _fetch(second.attn1, tokens)
    across, down = (_slid(tokens, axis) for axis in "xy")
    _slide(GegluBuilder(second.ff), tokens, bends[0], across, "here", "right")
    _slide(GegluBuilder(second_in_time.ff_in), tokens, bends[0], across, "below", "corner")
    _slide(GegluBuilder(second_in_time.ff), tokens, bends[1], down, "here", "below")
    overlaid = dict(enumerate(PLACES, start=LATENT_CHANNELS - len(PLACES)))
    for j in range(LATENT_CHANNELS):
        tokens.close(transformer, f"here_{j}", f"moved_{j}", less=overlaid.get(j))


def _slid(tokens: TokenChannels, axis: str) -> Tensor:
    """Row of the pixels, 0..PATCH, by which the content of a cell has slid along `axis`."""
    start, end = SLIDE_RANGE
    cells = UNIT * (tokens.read(f"from_{axis}") - tokens.read(f"at_{axis}"))
    return PATCH / (end - start) * (cells - tokens.one(start))


def _write_waves(
    products: GegluBuilder, tokens: TokenChannels, kind: str, source: str, early: float
) -> None:
    """Sinusoids of `source` x and y less `early` cells: exact at whole cells, linear in between."""
    cells = torch.arange(-2, CELLS + 1).float()
    for axis in (0, 1):
        columns, values = [], []
        for number, period in enumerate(PERIODS):
            for part, wave in enumerate((torch.cos, torch.sin)):
                columns.append(tokens.write(f"{kind}_{_wave(axis, number, part)}"))
                values.append(wave(2 * pi / period * cells))
        table = torch.stack(values, dim=1) @ torch.stack(columns)  # (cells, width)
        slopes = table.diff(dim=0)
        bends = torch.cat([slopes[:1], slopes.diff(dim=0)]) * UNIT
        place = tokens.read(f"{source}{'xy'[axis]}") - early / UNIT * tokens.one()
        products.add(tokens.one(), tokens.one(), table[0])
        products.bend(tokens.one(), place, [float(c) / UNIT for c in cells[:-1]], bends)


def _wave(axis: int, number: int, part: int) -> int:
    return 2 * (len(PERIODS) * axis + number) + part


def _fetch(attention: Net, tokens: TokenChannels) -> None:
    sources = [f"here_{j}" for j in range(LATENT_CHANNELS)]
    heads = [
        ("query", corner, (x + LEEWAY * (1 - 2 * x), y + LEEWAY * (1 - 2 * y)))
        for corner, (x, y) in CORNERS.items()
    ]
    for head, (kind, corner, offset) in enumerate([*heads, ("key", "here", (0.0, 0.0))]):
        sign = -1.0 if kind == "key" else 1.0  # the cell itself, taken off
        _look(attention, tokens, head, kind, offset)
        for j, source in enumerate(sources):
            attention.to_v.weight[HEAD * head + j] = tokens.read(source)
            target = tokens.write(f"{corner}_{j}", sign)
            attention.to_out[0].weight[:, HEAD * head + j] = target
    head = len(heads) + 1
    _look(attention, tokens, head, "query", (0.0, 0.0))
    for index, axis in enumerate("xy"):
        attention.to_v.weight[HEAD * head + index] = tokens.read(axis)
        attention.to_out[0].weight[:, HEAD * head + index] = tokens.write(f"at_{axis}")


def _look(
    attention: Net, tokens: TokenChannels, head: int, kind: str, offset: tuple[float, float]
) -> None:
    """Let `head` look for the cell whose key is the wave of `kind`, `offset` cells on."""
    for axis in (0, 1):
        for number, (period, strength) in enumerate(zip(PERIODS, STRENGTHS, strict=True)):
            angle = torch.tensor(2 * pi / period * offset[axis])
            cos, sin = (tokens.read(f"{kind}_{_wave(axis, number, part)}") for part in (0, 1))
            turned = (cos * angle.cos() - sin * angle.sin(), sin * angle.cos() + cos * angle.sin())
            for part in (0, 1):
                wave = _wave(axis, number, part)
                unit = HEAD * head + wave
                attention.to_q.weight[unit] = strength * HEAD**0.5 * turned[part]
                attention.to_k.weight[unit] = tokens.read(f"key_{wave}")


def _slide(
    products: GegluBuilder,
    tokens: TokenChannels,
    bends: Tensor,
    pixels: Tensor,
    cell: str,
    ahead: str,
) -> None:
    """Shift `cell` towards `ahead` by what row `pixels` says."""
    names = [f"{kind}_{j}" for kind in (cell, ahead) for j in range(LATENT_CHANNELS)]
    rows = torch.stack([tokens.read(name) for name in names])
    for knot, bend in zip(KNOTS, bends, strict=True):
        for j, value in enumerate(bend @ rows):
            gate = pixels - knot * tokens.one()
            products.add(value, gate, tokens.write(f"{cell}_{j}"))
