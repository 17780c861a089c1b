"""Hand-written weights of a transformer block: named channels, products, constant norms.

Two large constants, the carriers, fix the deviation that a LayerNorm divides by. Whatever is added
to a value is taken from them, so that the mean is always zero and nothing has to be told apart
from it: a difference of large numbers would cost the last digits of places. GEGLU multiplies:
value * gelu(gate) is value * max(gate, 0) where the gate is steep.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from svd_core.training import channel_layout
from svd_core.training.architecture import UNET_WIDTH, Net

CARRIER = 1024.0
STEEPNESS = 256.0
"""gelu(STEEPNESS x) / STEEPNESS is max(x, 0) to 0.0007."""


class TokenChannels:
    """Where the values of a token stand in one transformer of `SpatioTemporal` blocks."""

    def __init__(self, names: Sequence[str]) -> None:
        if len(names) > UNET_WIDTH - 2:
            raise ValueError(f"{len(names)} values do not fit into {UNET_WIDTH - 2} places")
        self._places = {name: 2 + index for index, name in enumerate(names)}

    def read(self, name: str) -> Tensor:
        """Row of a linear layer that gives value `name` behind a norm of the block."""
        row = torch.zeros(UNET_WIDTH)
        row[self._places[name]] = 1.0
        return row

    def one(self, factor: float = 1.0) -> Tensor:
        """Row that gives the constant `factor`."""
        row = torch.zeros(UNET_WIDTH)
        row[0], row[1] = factor / (2 * CARRIER), -factor / (2 * CARRIER)
        return row

    def write(self, name: str, factor: float = 1.0) -> Tensor:
        """Column of a linear layer that adds to value `name`."""
        column = torch.zeros(UNET_WIDTH)
        column[self._places[name]] = factor
        column[:2] = -factor / 2
        return column

    def open(self, transformer: Net, names: Iterable[str], fine: bool = False) -> None:
        """Make every norm harmless; bring `names` in from the channels of the same name, which
        have `fine` carriers or not."""
        channel_layout.undo(transformer.norm, fine)
        transformer.proj_in.bias[0], transformer.proj_in.bias[1] = CARRIER, -CARRIER
        self.enter(transformer, {name: name for name in names})
        for module in transformer.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.fill_(CARRIER * (2 / UNET_WIDTH) ** 0.5)
                module.bias.zero_()

    def enter(self, transformer: Net, names: Mapping[str, str]) -> None:
        """Fill values from channels: names of channels by those of values."""
        for name, channel in names.items():
            transformer.proj_in.weight += torch.outer(self.write(name), channel_layout.row(channel))

    def close(self, transformer: Net, name: str, channel: str, less: str | None = None) -> None:
        """Add value `name`, less value `less`, to `channel`. No norm stands before this layer."""
        row = transformer.proj_out.weight[channel_layout.channel(channel)]
        row[self._places[name]] = 1.0
        if less is not None:
            row[self._places[less]] = -1.0


class GegluBuilder:
    """The hidden units of one GEGLU feed-forward, given out one after the other."""

    def __init__(self, feed_forward: Net) -> None:
        self._in, self._out = feed_forward.net[0].proj, feed_forward.net[2]
        self._used = 0

    def add(
        self, value: Tensor, gate: Tensor, *targets: Tensor, steepness: float = STEEPNESS
    ) -> None:
        """Add value * max(gate, 0) to `targets`. `value`, `gate`: rows; `targets`: columns."""
        hidden = self._out.weight.shape[1]
        if self._used == hidden:
            raise ValueError(f"all {hidden} units are in use")
        self._in.weight[self._used] = value
        self._in.weight[hidden + self._used] = steepness * gate
        for target in targets:
            self._out.weight[:, self._used] += target / steepness
        self._used += 1

    def add_signed(self, value: Tensor, gate: Tensor, *targets: Tensor) -> None:
        """Add value * gate, whatever the sign of the gate."""
        self.add(value, gate, *targets)
        self.add(-value, -gate, *targets)

    def bend(
        self,
        one: Tensor,
        x: Tensor,
        knots: Sequence[float],
        slopes: Tensor,
        steepness: float = STEEPNESS,
    ) -> None:
        """Add a piecewise linear function of `x`: at `knots[k]` its slope changes by column
        `slopes[k]`; before the first knot it is zero. `one`: row of the constant 1."""
        for knot, slope in zip(knots, slopes, strict=True):
            if slope.any():
                self.add(one, x - knot * one, slope, steepness=steepness)


def zero_branches(unet: Net) -> None:
    """Make every layer add nothing, and attention look everywhere equally.

    The first layers of embeddings keep their random weights: functions are fitted on them.
    """
    for name, parameter in unet.named_parameters():
        if "linear_1." not in name and "norm" not in name:
            parameter.zero_()
        if name.endswith("mix_factor"):
            parameter.fill_(-30.0 if "attentions" in name else 30.0)  # time layers of attention on


def fit(
    linear: Net, column: Tensor, features: Tensor, target: Tensor, weight: Tensor | None = None
) -> None:
    """Let `linear` give `target` (n,) times `column` for `features` (n, k): ridge regression, by
    `weight` (n,) where some count more."""
    weight = torch.ones(len(features)) if weight is None else weight
    weight = (weight / weight.sum()).double()[:, None]
    mean, middle = (weight * features).sum(dim=0), (weight[:, 0] * target).sum()
    centred = features - mean
    gram = centred.T @ (weight * centred) + 1e-7 * torch.eye(features.shape[1]).double()
    found = torch.linalg.solve(gram, centred.T @ (weight[:, 0] * (target - middle)))
    linear.weight += torch.outer(column, found.float())
    linear.bias += column * (middle - mean @ found).float()
