"""First weights of svd-nano's UNet: a net that moves the photo before it has been trained.

Learning to move a picture takes a small net far more clips than a CPU can show it: after 3,300, a
UNet that started from copying blurred the photo where it should have shifted it. But a shift is a
known linear map of neighbouring latent cells, and the stock architecture can express it: its
convolutions fetch the neighbours, its GEGLU multiplies them with piecewise linear functions of the
displacement, and attention with equal weights reads the direction from the noise. So those weights
are written down.

Layout of the 192 channels: 32 norm groups of (a, b, carrier, -carrier, c, d), where a and b, and c
and d, cancel in the mean. The carriers make the statistics of every group constant, so that norms
can be undone; where convolutions read, b = -a, for silu(a) - silu(-a) = a.
"""

import torch
from torch import Tensor

from svd_core.nano.operators import KNOT_STEP, KNOTS, Operators
from svd_core.nano.shape import LATENT_CHANNELS, Net
from svd_core.nano.tokens import Tokens, open_tokens, silence, write_gated

CARRIER = 96.0
GROUP = 6
MOTION_CHANNELS = (LATENT_CHANNELS - 2, LATENT_CHANNELS - 1)
"""Noise channels whose means over the clip give the displacement to the right and down."""

PIXELS_PER_FRAME = (1.6, 0.8)
"""Displacement (x, y) from frame to frame at bucket 127 and 7 fps, for a mean one deviation off."""

CELLS = 36 * 64
FRAMES = 14
DISPLACEMENT_UNIT = 8.0
"""Pixels; displacements wait in their channel in these, to stay small beside the carriers."""

KINDS = ("photo", "near0", "near1", "far0", "far1")
"""A cell and its neighbours one and two back (0) and ahead (1), as `operators` orders them."""


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


@torch.no_grad()
def initialise(unet: Net, operators: Operators) -> None:
    """Write the weights of `unet` (`shape.unet()`); what is not used is silent (zero)."""
    silence(unet)
    for group in _group_norms(unet):
        group.weight.fill_(CARRIER / 3**0.5)  # deviation of (0, 0, carrier, -carrier, 0, 0)
        group.bias.zero_()
    _enter(unet)
    _speed(unet)
    down, mid, up = unet.down_blocks[0], unet.mid_block, unet.up_blocks[0]
    for resnet in up.resnets:
        width = len(unet.conv_in.weight)
        resnet.spatial_res_block.conv_shortcut.weight[:, :width, 0, 0] = torch.eye(width)
    _displacement(down.attentions[0])
    gather(mid.resnets[0].spatial_res_block, axis=0)
    move(mid.attentions[0], operators, axis=0, start=0.0)
    gather(mid.resnets[1].spatial_res_block, axis=1)
    move(up.attentions[0], operators, axis=1, start=0.0)
    gather(up.resnets[1].spatial_res_block, axis=0)
    move(up.attentions[1], operators, axis=0, start=KNOTS * KNOT_STEP)
    for latent, channel in enumerate(Channels.photo):  # v is minus the clean latents
        unet.conv_out.weight[latent, channel, 1, 1] = -1.0
        unet.conv_out.weight[latent, channel + 1, 1, 1] = 1.0


def _group_norms(unet: Net) -> list[Net]:
    return [m for m in unet.modules() if isinstance(m, torch.nn.GroupNorm)]


def _enter(unet: Net) -> None:
    unet.conv_in.bias[2::GROUP] = CARRIER
    unet.conv_in.bias[3::GROUP] = -CARRIER
    for latent, channel in enumerate(Channels.photo):
        unet.conv_in.weight[channel, LATENT_CHANNELS + latent, 1, 1] = 1.0
        unet.conv_in.weight[channel + 1, LATENT_CHANNELS + latent, 1, 1] = -1.0
    for source, channel in zip(MOTION_CHANNELS, Channels.noise, strict=True):
        unet.conv_in.weight[channel, source, 1, 1] = 1.0
        unet.conv_in.weight[channel + 1, source, 1, 1] = -1.0


def _speed(unet: Net) -> None:
    """bucket / 127 * 7 / fps, found by least squares over the sinusoids SVD embeds them with."""
    embedding = unet.add_embedding
    generator = torch.Generator().manual_seed(0)
    count = 12_000
    bucket = 1 + 254 * torch.rand(count, generator=generator)
    fps = 5 + 25 * torch.rand(count, generator=generator)
    fps[: count // 2] = 7
    aug = 2 * torch.rand(count, generator=generator) ** 3
    ids = torch.stack([fps - 1, bucket, aug], dim=1)
    features = _features(embedding, unet.add_time_proj(ids.flatten()).reshape(count, -1))
    offset = 10.0  # where SiLU is the identity
    _fit(embedding.linear_2, 0, features, bucket / 127 * 7 / fps + offset)
    block = unet.down_blocks[0].resnets[0].spatial_res_block
    block.time_emb_proj.weight[0, 0], block.time_emb_proj.bias[0] = 1.0, -offset
    block.time_emb_proj.weight[1, 0], block.time_emb_proj.bias[1] = -1.0, offset
    _carriers(block.conv1)
    for sign, channel in ((1.0, Channels.speed), (-1.0, Channels.speed + 1)):
        block.conv2.weight[channel, 0, 1, 1] = sign
        block.conv2.weight[channel, 1, 1, 1] = -sign


def _features(embedding: Net, sinusoids: Tensor) -> Tensor:
    return torch.nn.functional.silu(embedding.linear_1(sinusoids))


def _fit(linear: Net, row: int, features: Tensor, target: Tensor) -> None:
    """Ridge regression: small weights survive half precision."""
    mean, middle = features.mean(dim=0), target.mean()
    centred = (features - mean).double()
    gram = centred.T @ centred + 1e-4 * len(features) * torch.eye(features.shape[1]).double()
    weight = torch.linalg.solve(gram, centred.T @ (target - middle).double()).float()
    linear.weight[row] = weight
    linear.bias[row] = middle - mean @ weight


def _carriers(conv: Net) -> None:
    conv.bias[2::GROUP] = CARRIER
    conv.bias[3::GROUP] = -CARRIER


def _displacement(attention: Net) -> None:
    """Mean noise over the clip, times frame number and speed, into `Channels.displacement`."""
    tokens = Tokens(
        [
            "noise_x",
            "noise_y",
            "mean_x",
            "mean_y",
            "code_x",
            "code_y",
            "frame",
            "pace",
            "speed",
            "x",
            "y",
        ]
    )
    read, write = tokens.read, tokens.write
    open_tokens(attention)
    slots = [*Channels.noise, Channels.speed]
    for name, channel in zip(("noise_x", "noise_y", "speed"), slots, strict=True):
        tokens.enter(attention, name, channel)
    frames = torch.arange(50)
    features = _features(attention.time_pos_embed, attention.time_proj(frames))
    place = int(read("frame").argmax())
    _fit(attention.time_pos_embed.linear_2, place, features, frames.float())
    _fit(attention.time_pos_embed.linear_2, place + 1, features, -frames.float())
    spatial, temporal = attention.transformer_blocks[0], attention.temporal_transformer_blocks[0]
    many = (CELLS * FRAMES) ** 0.5
    for head, axis in enumerate("xy"):
        spatial.attn1.to_v.weight[head] = read(f"noise_{axis}")
        spatial.attn1.to_out[0].weight[:, head] = write(f"mean_{axis}")
        temporal.attn1.to_v.weight[head] = read(f"mean_{axis}")
        temporal.attn1.to_out[0].weight[:, head] = many * write(f"code_{axis}")
    write_gated(temporal.ff_in, 0, read("frame"), read("speed"), write("pace"))
    for unit, axis in enumerate("xy"):
        value = PIXELS_PER_FRAME[unit] * read(f"code_{axis}")
        write_gated(temporal.ff, unit, value, read("pace"), write(axis))
        channel = Channels.displacement[unit]
        attention.proj_out.weight[channel] = read(axis) / DISPLACEMENT_UNIT
        attention.proj_out.weight[channel + 1] = -read(axis) / DISPLACEMENT_UNIT


def gather(block: Net, axis: int) -> None:
    """Fetch the photo's two neighbours to either side along `axis` (0: x, 1: y), and the edges."""
    _carriers(block.conv1)
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
