"""Which way and how fast: displacements read from the noise, the bucket and the fps."""

import torch
from torch import Tensor

from svd_core.nano.channels import DISPLACEMENT_UNIT, Channels, set_carriers
from svd_core.nano.shape import LATENT_CHANNELS, Net
from svd_core.nano.tokens import Tokens, open_tokens, write_gated

MOTION_CHANNELS = (LATENT_CHANNELS - 2, LATENT_CHANNELS - 1)
"""Noise channels whose means over the clip give the displacement to the right and down."""

PIXELS_PER_FRAME = (1.6, 0.8)
"""Displacement (x, y) from frame to frame at bucket 127 and 7 fps, for a mean one deviation off."""

CELLS = 36 * 64
FRAMES = 14


def write_speed(unet: Net) -> None:
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
    set_carriers(block.conv1)
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


def write_displacement(attention: Net) -> None:
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
