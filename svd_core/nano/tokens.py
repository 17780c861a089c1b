"""Weights of a stock transformer block written by hand: named values, gates, norms that do nothing.

Values stand in pairs of opposite sign, so that the mean LayerNorm subtracts is zero, and two large
constants fix the deviation it divides by. Both hold in bfloat16 too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from svd_core.nano.shape import UNET_WIDTH, Net

CARRIER = 1000.0
"""Two constants, plus and minus, that make the deviation of every token the same."""

SHARPNESS = 16.0
"""gelu(SHARPNESS x) / SHARPNESS is max(x, 0) but for |x| under a fifth."""


class Tokens:
    """Where the values of a token stand: `names` with their negatives, `twins` with a copy each.

    The copy of a twin `name` is called `name_moved`, stands with opposite sign, and may be changed.
    """

    def __init__(self, names: Sequence[str], twins: Sequence[str] = ()) -> None:
        self._places: dict[str, tuple[int, float]] = {}
        for pair, name in enumerate([*names, *twins]):
            self._places[name] = (2 * pair, 1.0)
            if name in twins:
                self._places[f"{name}_moved"] = (2 * pair + 1, -1.0)
        if 2 * (len(names) + len(twins)) > UNET_WIDTH - 2:
            raise ValueError(f"{len(names) + len(twins)} pairs do not fit {UNET_WIDTH} values")

    def read(self, name: str) -> Tensor:
        """Row of a linear layer that gives value `name`."""
        index, sign = self._places[name]
        row = torch.zeros(UNET_WIDTH)
        row[index] = sign
        return row

    def write(self, name: str) -> Tensor:
        """Column of a linear layer that adds to value `name`, and takes from its negative."""
        column = self.read(name)
        place, _ = self._places[name]
        if f"{name}_moved" not in self._places and not name.endswith("_moved"):
            column[place + 1] = -column[place]
        return column

    def enter(self, attention: Net, name: str, channel: int, scale: float = 1.0) -> None:
        """Fill value `name`, and its negative or copy, from `channel`."""
        place, _ = self._places[name]
        attention.proj_in.weight[place, channel] = scale
        attention.proj_in.weight[place + 1, channel] = -scale


def silence(unet: Net) -> None:
    """Make every layer add nothing, and attention look everywhere equally.

    The first layers of embeddings keep their random weights: `warping` fits functions on them.
    """
    for name, parameter in unet.named_parameters():
        if "linear_1." not in name and "norm" not in name:
            parameter.zero_()
        if name.endswith("mix_factor"):
            parameter.fill_(-12.0 if "attentions" in name else 12.0)  # time layers of attention on


def open_tokens(attention: Net) -> None:
    """Put the carriers into the tokens and make every LayerNorm of the block the identity."""
    attention.proj_in.bias[-2] = CARRIER
    attention.proj_in.bias[-1] = -CARRIER
    for module in attention.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.fill_(CARRIER * (2 / UNET_WIDTH) ** 0.5)
            module.bias.zero_()


def write_gated(
    feed_forward: Net,
    unit: int,
    value: Tensor,
    gate: Tensor,
    *targets: Tensor,
    threshold: float = 0.0,
) -> None:
    """With hidden unit `unit`, add value * max(gate - threshold, 0) to `targets`.

    `value` and `gate`: rows as `Tokens.read` gives them; `targets`: as `Tokens.write` does.
    """
    projection, out = feed_forward.net[0].proj, feed_forward.net[2]
    hidden = out.weight.shape[1]
    projection.weight[unit] = value
    projection.weight[hidden + unit] = SHARPNESS * gate
    projection.bias[hidden + unit] = -SHARPNESS * threshold
    for target in targets:
        out.weight[:, unit] += target / SHARPNESS
