"""Where svd-nano's hand-written UNet keeps its values between layers.

The 192 channels are 32 norm groups of (a, b, carrier, -carrier, c, d), where a and b, and c and d,
cancel in the mean. The carriers make the statistics of every group constant, so that norms can be
undone; where convolutions read, b = -a, for silu(a) - silu(-a) = a.
"""

from svd_core.nano.shape import LATENT_CHANNELS, Net

CARRIER = 96.0
GROUP = 6
DISPLACEMENT_UNIT = 8.0
"""Pixels; displacements wait in their channel in these, to stay small beside the carriers."""


def _pair(number: int) -> int:
    """First channel of pair `number` behind the photo's groups; the second is the next."""
    return (LATENT_CHANNELS + number // 2) * GROUP + (0, 4)[number % 2]


class Channels:
    """Where each value lives in the residual stream; what lies behind a picture's cell has sign -1.

    `near`, `far`: neighbours at distance 1 and 2, by side and latent. `edge`: by side and distance,
    1 where that neighbour lies outside the picture. Single values stand beside their negatives.
    """

    photo = tuple(GROUP * j for j in range(LATENT_CHANNELS))
    near = tuple(tuple(GROUP * j + 4 + side for j in range(LATENT_CHANNELS)) for side in (0, 1))
    far = tuple(tuple(_pair(j) + side for j in range(LATENT_CHANNELS)) for side in (0, 1))
    sign = (1.0, -1.0)
    noise = (_pair(16), _pair(17))
    speed = _pair(18)
    displacement = (_pair(19), _pair(20))
    edge = ((_pair(21), _pair(22)), (_pair(23), _pair(24)))


def set_carriers(conv: Net) -> None:
    conv.bias[2::GROUP] = CARRIER
    conv.bias[3::GROUP] = -CARRIER
