"""Moving the photo by a displacement: neighbours fetched by convolution, blended by gates."""

import torch

from svd_core.nano.channels import CARRIER, DISPLACEMENT_UNIT, GROUP, Channels, set_carriers
from svd_core.nano.operators import KNOT_STEP, KNOTS, Operators
from svd_core.nano.shape import LATENT_CHANNELS, Net
from svd_core.nano.tokens import Tokens, open_tokens, write_gated

KINDS = ("photo", "near0", "near1", "far0", "far1")
"""A cell and its neighbours one and two back (0) and ahead (1), as `operators` orders them."""


def gather(block: Net, axis: int) -> None:
    """Fetch the photo's two neighbours to either side along `axis` (0: x, 1: y), and the edges."""
    set_carriers(block.conv1)
    back, on, ahead = (((1, 0), (0, 1))[axis], (1, 1), ((1, 2), (2, 1))[axis])
    for side, step in enumerate((back, ahead)):
        first = side * LATENT_CHANNELS * GROUP
        for sign, extra in ((1.0, 4), (-1.0, 5)):
            block.conv1.weight[(first + extra, 2, *step)] = (
                sign / CARRIER
            )  # a one that stops at edges
        for latent, channel in enumerate(Channels.photo):
            middle = first + GROUP * latent
            for row, sign in ((middle, 1.0), (middle + 1, -1.0)):
                block.conv1.weight[(row, channel, *step)] = sign
                block.conv1.weight[(row, channel + 1, *step)] = -sign
            for target, tap in ((Channels.near, on), (Channels.far, step)):
                sign = Channels.sign[side]
                block.conv2.weight[(target[side][latent], middle, *tap)] = sign
                block.conv2.weight[(target[side][latent], middle + 1, *tap)] = -sign
        for edge, tap in zip(Channels.edge[side], (on, step), strict=True):
            for channel, sign in ((edge, 1.0), (edge + 1, -1.0)):
                block.conv2.weight[(channel, first + 4, *tap)] = -sign
                block.conv2.weight[(channel, first + 5, *tap)] = sign
                block.conv2.bias[channel] = sign


def move(attention: Net, operators: Operators, axis: int, start: float) -> None:
    """Shift the photo by the displacement beyond `start` pixels, by `KNOTS * KNOT_STEP` at most."""
    names = [f"{kind}_{j}" for kind in KINDS for j in range(LATENT_CHANNELS)]
    edges = [f"edge{side}{distance}" for side in (0, 1) for distance in (0, 1)]
    tokens = Tokens([*edges, "shift"], twins=names)
    open_tokens(attention)
    near, far, sign = Channels.near, Channels.far, Channels.sign
    homes = [(channel, 1.0) for channel in Channels.photo]
    homes += [(channel, sign[side]) for side in (0, 1) for channel in near[side]]
    homes += [(channel, sign[side]) for side in (0, 1) for channel in far[side]]
    out = attention.proj_out.weight
    for name, (channel, direction) in zip(names, homes, strict=True):
        tokens.enter(attention, name, channel, direction)
        if name.startswith("photo"):
            change = tokens.read(f"{name}_moved") - tokens.read(name)
            out[channel], out[channel + 1] = change, -change
        else:
            out[channel] = -direction * tokens.read(name)  # used up
    for name, channel in zip(edges, [*Channels.edge[0], *Channels.edge[1]], strict=True):
        tokens.enter(attention, name, channel)
        out[channel], out[channel + 1] = -tokens.read(name), tokens.read(name)  # used up
    tokens.enter(attention, "shift", Channels.displacement[axis], DISPLACEMENT_UNIT)
    _extend_edges(attention.transformer_blocks[0].ff, tokens)
    _interpolate(attention.temporal_transformer_blocks[0].ff_in, tokens, operators, axis, start)


def _extend_edges(feed_forward: Net, tokens: Tokens) -> None:
    """Beyond the picture its outermost cells go on, so that nothing grey moves in."""
    read, unit = tokens.read, 0
    for side in (0, 1):
        outermost, second = read(f"edge{side}0"), read(f"edge{side}1")
        for j in range(LATENT_CHANNELS):
            near, far = (tokens.write(f"{kind}{side}_{j}_moved") for kind in ("near", "far"))
            write_gated(feed_forward, unit, read(f"photo_{j}"), outermost, near, far)
            inner = read(f"near{side}_{j}")
            write_gated(feed_forward, unit + 1, inner, second - outermost, far)
            unit += 2


def _interpolate(
    feed_forward: Net, tokens: Tokens, operators: Operators, axis: int, start: float
) -> None:
    names = [f"{kind}_{j}_moved" for kind in KINDS for j in range(LATENT_CHANNELS)]
    rows = torch.stack([tokens.read(name) for name in names])
    shift, unit = tokens.read("shift"), 0
    for side, sign in ((0, 1.0), (1, -1.0)):
        for knot in range(KNOTS + 1):
            values = operators.bends[axis][side][knot] @ rows
            threshold = start + knot * KNOT_STEP
            for j in range(LATENT_CHANNELS):
                target = tokens.write(f"photo_{j}_moved")
                gate = sign * shift
                write_gated(feed_forward, unit, values[j], gate, target, threshold=threshold)
                unit += 1
