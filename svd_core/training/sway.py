"""Sway: gusts that pass over the picture and move what is free to drift."""

from math import pi

import torch
from torch import Tensor

from svd_core.training.channel_layout import FRAME, UNIT
from svd_core.training.handwritten_layers import GegluBuilder, TokenChannels

AMPLITUDE = 0.4
"""Cells to either side of what is quite free, for noise one deviation off."""

PACE = 10.0
"""Frames from one gust to the next at bucket 127 and 7 fps."""

LENGTH = 48.0
"""Cells from one gust to the next, to the right; downwards it is twice as many."""

KNOTS = 12
"""In a gust; a sine of so many straight lines is right to 0.04."""

LAST, LAST_AT_FIRST = 18, 4
"""Gusts after which it is calm: none gets there in 50 frames at bucket 255 and 5 fps, and none
lies further off in frame 0."""


def wave(x: Tensor, y: Tensor, pace: Tensor) -> Tensor:
    """How far each cell has swayed since frame 0, -2..2, for the pace of its frame."""
    gusts = (x + y / 2) / LENGTH
    return (2 * pi * (gusts + pace / PACE)).sin() - (2 * pi * gusts).sin()


def write(products: GegluBuilder, tokens: TokenChannels) -> None:
    """`wave` of values `cell_x`, `cell_y` and `pace`, into value `wave`."""
    gusts = (tokens.read("cell_x") + tokens.read("cell_y") / 2) * (UNIT / LENGTH)
    passed = gusts + tokens.read("pace") * (FRAME / PACE)
    for place, last, sign in ((passed, LAST, 1.0), (gusts, LAST_AT_FIRST, -1.0)):
        turns = torch.arange(last * KNOTS + 1) / KNOTS
        slopes = (2 * pi * turns).sin().diff() * KNOTS
        bends = torch.cat([slopes[:1], slopes.diff(), -slopes[-1:]])
        columns = sign * bends[:, None] * tokens.write("wave")
        products.bend(tokens.one(), place, turns.tolist(), columns)
