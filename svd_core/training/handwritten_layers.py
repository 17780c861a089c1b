"""Hand-written layers: channel layout, token layout and GEGLU products of the UNet.

The 96 channels are 32 norm groups of (carrier, -carrier, value). The carriers make the statistics
of every group constant, so a norm can be undone. Half of their sum after a norm is the mean that
the norm subtracted from the value. Lengths are in `CELL_UNIT`s, small compared with the carriers.

Tokens have two carriers, which fix the deviation that a LayerNorm divides by. Additions to a value
are subtracted from them, so the mean is always zero. Subtracting a mean later would take the
difference of large numbers, and places would lose their last digits.

GEGLU multiplies: value * gelu(gate) is value * max(gate, 0) if the gate is steep.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from svd_core.training.architecture import LATENT_CHANNELS, UNET_WIDTH, Net

CARRIER = 256.0
FINE_CARRIER = 16.0
"""Carriers of the noise channels. Their mean over the clip would lose its last digits beside larger
ones."""

GROUP = 3
CELL_UNIT = 32.0
"""Cells in one unit of a length."""

OFFSET = 20.0
"""Offset at which SiLU is the identity: silu(20 + x) is 20 + x, to eight digits."""

PLACES = ("x", "y", "from_x", "from_y")

FRAME_UNIT = 16.0
"""Frames in one unit of a frame number; small, as `CELL_UNIT`s are."""

LINEAR_CODES = ("pan_x", "pan_y", "zoom", "roll", "drift_x", "drift_y")
CODES = (*LINEAR_CODES, "sway")
"""Motions that the noise decides, normally distributed. The mean of noise channel 0 is the first
code, and so on. Motions of `LINEAR_CODES` grow with the frame number."""

PHOTO = [f"photo_{j}" for j in range(LATENT_CHANNELS)]
"""Names of the latents of the photo."""

_SLOTS: dict[str, int] = {
    **{name: j for j, name in enumerate(PHOTO)},
    **{f"noise_{code}": 16 + index for index, code in enumerate(CODES)},
    **{"near": 23, "drift": 24, "bucket": 25, "interval": 26},
    **{name: 28 + index for index, name in enumerate(PLACES)},
    **{f"moved_{j}": 16 + j for j in range(LATENT_CHANNELS)},
}


def channel_index(name: str) -> int:
    """Index of the channel that holds value `name`; its carriers are the two before it.

    `photo_j`: latents of the photo. `noise_*`: noise that decides a code. `near`, `drift`: outputs
    of the depth net. `bucket`, `interval`: the request's bucket over 127 and 7 over its fps. `x`,
    `y`: the cell. `from_x`, `from_y`: the place its content comes from. `moved_j`: the moved
    latents, which replace all but the photo.
    """
    return GROUP * _SLOTS[name] + 2


def channel_row(name: str) -> Tensor:
    """Row of a linear layer that reads value `name` behind a norm that `undo_norm` prepared."""
    weights = torch.zeros(UNET_WIDTH)
    place = channel_index(name)
    weights[place] = 1.0
    weights[place - 2 : place] = -0.5
    return weights


def carriers(fine: bool = False) -> Tensor:
    """Size of the carrier of each channel; `fine`: while the channels hold the noise."""
    sizes = torch.full((UNET_WIDTH,), CARRIER)
    if fine:
        for code in CODES:
            place = channel_index(f"noise_{code}")
            sizes[place + 1 - GROUP : place + 1] = FINE_CARRIER
    return sizes


@torch.no_grad()
def undo_norm(norm: Net, fine: bool = False) -> None:
    """Make a group norm the identity, up to the mean that `channel_row` corrects."""
    norm.weight.copy_(carriers(fine) * (2 / GROUP) ** 0.5)
    norm.bias.zero_()


def set_carriers(bias: Tensor, fine: bool = False) -> None:
    """Write the carriers into the bias of a convolution."""
    bias[0::GROUP] = carriers(fine)[0::GROUP]
    bias[1::GROUP] = -carriers(fine)[1::GROUP]


# Transformers: tokens, products


TOKEN_CARRIER = 1024.0

STEEPNESS = 256.0
"""gelu(STEEPNESS x) / STEEPNESS is max(x, 0) to 0.0007."""


class TokenChannels:
    """Layout of the values of a token in one transformer of `SpatioTemporal` blocks."""

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
        row[0], row[1] = factor / (2 * TOKEN_CARRIER), -factor / (2 * TOKEN_CARRIER)
        return row

    def write(self, name: str, factor: float = 1.0) -> Tensor:
        """Column of a linear layer that adds to value `name`."""
        column = torch.zeros(UNET_WIDTH)
        column[self._places[name]] = factor
        column[:2] = -factor / 2
        return column

    def open(self, transformer: Net, names: Iterable[str], fine: bool = False) -> None:
        """Make every norm the identity and read `names` from the channels of the same name, which
        have `fine` carriers or not."""
        undo_norm(transformer.norm, fine)
        transformer.proj_in.bias[0], transformer.proj_in.bias[1] = TOKEN_CARRIER, -TOKEN_CARRIER
        self.enter(transformer, {name: name for name in names})
        for module in transformer.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.fill_(TOKEN_CARRIER * (2 / UNET_WIDTH) ** 0.5)
                module.bias.zero_()

    def enter(self, transformer: Net, names: Mapping[str, str]) -> None:
        """Read values from channels. `names`: names of channels by those of values."""
        for name, channel in names.items():
            transformer.proj_in.weight += torch.outer(self.write(name), channel_row(channel))

    def close(self, transformer: Net, name: str, channel: str, less: str | None = None) -> None:
        """Add value `name` minus value `less` to `channel`. This layer has no norm before it."""
        row = transformer.proj_out.weight[channel_index(channel)]
        row[self._places[name]] = 1.0
        if less is not None:
            row[self._places[less]] = -1.0


class GegluBuilder:
    """Allocates the hidden units of one GEGLU feed-forward, one after the other."""

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
        """Add value * gate, for a gate of any sign."""
        self.add(value, gate, *targets)
        self.add(-value, -gate, *targets)

    def bend(self, one: Tensor, x: Tensor, knots: Sequence[float], slopes: Tensor) -> None:
        """Add a piecewise linear function of `x`. At `knots[k]` its slope changes by column
        `slopes[k]`; before the first knot it is zero. `one`: row of the constant 1."""
        for knot, slope in zip(knots, slopes, strict=True):
            if slope.any():
                self.add(one, x - knot * one, slope)


def zero_branches(unet: Net) -> None:
    """Make every layer add nothing, and attention average over all tokens.

    The first layers of embeddings keep their random weights: `fit_linear` builds on them.
    """
    for name, parameter in unet.named_parameters():
        if "linear_1." not in name and "norm" not in name:
            parameter.zero_()
        if name.endswith("mix_factor"):
            parameter.fill_(-30.0 if "attentions" in name else 30.0)  # time layers of attention on


def fit_linear(
    linear: Net, column: Tensor, features: Tensor, target: Tensor, weight: Tensor | None = None
) -> None:
    """Ridge regression: let `linear` give `target` (n,) times `column` for `features` (n, k).

    `weight` (n,): of each sample; equal by default.
    """
    weight = torch.ones(len(features)) if weight is None else weight
    weight = (weight / weight.sum()).double()[:, None]
    mean, middle = (weight * features).sum(dim=0), (weight[:, 0] * target).sum()
    centred = features - mean
    gram = centred.T @ (weight * centred) + 1e-7 * torch.eye(features.shape[1]).double()
    solution = torch.linalg.solve(gram, centred.T @ (weight[:, 0] * (target - middle)))
    linear.weight += torch.outer(column, solution.float())
    linear.bias += column * (middle - mean @ solution).float()
