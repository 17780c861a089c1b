"""Channel layout of the hand-written layers of svd-nano.

The 96 channels are 32 norm groups of (carrier, -carrier, value). The carriers make the statistics
of every group constant, so that a norm can be undone; half their sum after a norm is what the norm
took off the value. Lengths are kept in `UNIT`s, to stay small beside the carriers.
"""

import torch
from torch import Tensor

from svd_core.training.architecture import LATENT_CHANNELS, UNET_WIDTH, Net

CARRIER = 256.0
FINE = 16.0
"""Carriers of the noise, until it has been read: its mean over the clip is wanted, which beside
larger ones would lose its last digits."""

GROUP = 3
UNIT = 32.0
"""Cells."""

OFFSET = 20.0
"""Where SiLU is the identity: silu(20 + x) is 20 + x, to eight digits."""

PLACES = ("x", "y", "from_x", "from_y")

FRAME = 16.0
"""Frames are counted in these, for the same reason."""

WAYS = ("pan_x", "pan_y", "zoom", "roll", "drift_x", "drift_y")
CODES = (*WAYS, "sway")
"""What the noise decides, each normally distributed; noise channel 0 stands for the first, ...
`WAYS` go on and on, frame by frame."""

_SLOTS: dict[str, int] = {
    **{f"photo_{j}": j for j in range(LATENT_CHANNELS)},
    **{f"noise_{code}": 16 + index for index, code in enumerate(CODES)},
    **{"near": 23, "drift": 24, "bucket": 25, "interval": 26},
    **{name: 28 + index for index, name in enumerate(PLACES)},
    **{f"moved_{j}": 16 + j for j in range(LATENT_CHANNELS)},
}


def channel(name: str) -> int:
    """The channel that holds value `name`; its carriers are the two before it.

    `photo_j`: latents of the photo. `noise_*`: noise that decides a code. `near`, `drift`: what the
    scene net found. `bucket`, `interval`: the request's bucket over 127 and 7 over its fps. `x`,
    `y`: the cell. `from_x`, `from_y`: the place its content comes from. `moved_j`: the answer,
    which takes the place of all but the photo.
    """
    return GROUP * _SLOTS[name] + 2


def row(name: str) -> Tensor:
    """Row of a linear layer that reads value `name` behind a norm that `undo` prepared."""
    weights = torch.zeros(UNET_WIDTH)
    place = channel(name)
    weights[place] = 1.0
    weights[place - 2 : place] = -0.5
    return weights


def carriers(fine: bool = False) -> Tensor:
    """How large the carriers are, for each channel; `fine`: of a net that still holds the noise."""
    sizes = torch.full((UNET_WIDTH,), CARRIER)
    if fine:
        for code in CODES:
            place = channel(f"noise_{code}")
            sizes[place + 1 - GROUP : place + 1] = FINE
    return sizes


@torch.no_grad()
def undo(norm: Net, fine: bool = False) -> None:
    """Make a group norm the identity, but for what `row` corrects."""
    norm.weight.copy_(carriers(fine) * (2 / GROUP) ** 0.5)
    norm.bias.zero_()


def set_carriers(bias: Tensor, fine: bool = False) -> None:
    bias[0::GROUP] = carriers(fine)[0::GROUP]
    bias[1::GROUP] = -carriers(fine)[1::GROUP]
