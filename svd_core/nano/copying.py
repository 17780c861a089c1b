"""First weights of svd-nano's UNet: a net that stands still, and sees which way its noise points.

From random weights the detail of the photo has to pass GroupNorm and SiLU before it reaches the
output, and learning that eats most of the training. In the stock architecture it can be written
down instead: the outer level carries each of its 32 inputs as a triple (a, -a, carrier), so that
norms do not change it, silu(a) - silu(-a) = a undoes SiLU, and the conditioning photo reaches
`conv_out` exactly (with v-prediction, the answer to pure noise is minus the clean latents).

A second path reads the direction of the motion, which `clips` ties to the mean of two noise
channels: strided convolutions and attention with equal weights average them over space and time.
"""

import torch

from svd_core.nano.codec import restore
from svd_core.nano.shape import LATENT_CHANNELS, Net

CARRIER = 96.0
MOTION_CHANNELS = (LATENT_CHANNELS - 2, LATENT_CHANNELS - 1)
"""Noise channels whose means are the motion (x, y): of the finest detail, so that the mean of a
photo's own latents in them is near zero and the direction can be read at every noise level."""

COPYING = (
    "unet.conv_in",
    "unet.conv_out",
    "unet.conv_norm",
    "unet.down_blocks.0",
    "unet.up_blocks.2",
)
"""The outer level, which is right from the start: at the full learning rate it forgot how to copy
(error of the first frame 0.006 before training, 0.42 after 600 clips)."""

POOL_GAIN = 2.0
ATTENTION_GAIN = 5.0


@torch.no_grad()
def initialise(unet: Net) -> None:
    """Overwrite the random weights of `unet` where the two paths run; branches start at a tenth."""
    for name, module in unet.named_modules():
        if name.endswith((".conv2", "attn1.to_out.0", "attn2.to_out.0", "ff.net.2", "ff_in.net.2")):
            module.weight.mul_(0.1)
            module.bias.zero_()
    _carry_inputs(unet)
    _pool_motion(unet)


def _carry_inputs(unet: Net) -> None:
    width = unet.conv_in.weight.shape[0]
    unet.conv_in.weight.zero_()
    unet.conv_in.bias.zero_()
    unet.conv_in.bias[2::3] = CARRIER
    for channel in range(2 * LATENT_CHANNELS):
        unet.conv_in.weight[3 * channel, channel, 1, 1] = 1.0
        unet.conv_in.weight[3 * channel + 1, channel, 1, 1] = -1.0
    down = unet.down_blocks[0].resnets[0]
    first, second = unet.up_blocks[-1].resnets
    restore(down.spatial_res_block.norm1, CARRIER)
    restore(first.spatial_res_block.norm1, CARRIER, start=width)
    restore(second.spatial_res_block.norm1, CARRIER)
    for block in (down, first, second):
        restore(block.temporal_res_block.norm1, CARRIER)
    restore(unet.conv_norm_out, CARRIER)
    identity = torch.eye(width)[:, :, None, None]
    first.spatial_res_block.conv_shortcut.weight[:, :width].mul_(0.1)
    first.spatial_res_block.conv_shortcut.weight[:, width:] = identity
    second.spatial_res_block.conv_shortcut.weight[:, :width] = 0.5 * identity
    second.spatial_res_block.conv_shortcut.weight[:, width:] = 0.5 * identity
    for block in (first, second):
        block.spatial_res_block.conv_shortcut.bias.zero_()
    unet.conv_out.weight.zero_()
    unet.conv_out.bias.zero_()
    for channel in range(LATENT_CHANNELS):
        photo = 3 * (LATENT_CHANNELS + channel)
        unet.conv_out.weight[channel, photo, 1, 1] = -1.0
        unet.conv_out.weight[channel, photo + 1, 1, 1] = 1.0


def _pool_motion(unet: Net) -> None:
    slots = [3 * channel for channel in MOTION_CHANNELS]
    binomial = torch.tensor([1.0, 2.0, 1.0]) / 4
    average = POOL_GAIN * binomial[:, None] * binomial[None, :]
    for block in list(unet.down_blocks)[:2]:
        conv = block.downsamplers[0].conv
        for slot in slots:
            conv.weight[slot : slot + 3] = 0.0
            conv.weight[slot, slot] = average
            conv.weight[slot + 1, slot + 1] = average
            conv.bias[slot : slot + 3] = torch.tensor([0.0, 0.0, CARRIER])
    first, last = slots[0], slots[-1] + 3
    level1 = unet.down_blocks[1].resnets[0]
    inner = unet.down_blocks[2].resnets[0]
    for block in (level1.spatial_res_block, level1.temporal_res_block, inner.spatial_res_block):
        restore(block.norm1, CARRIER, first, last)
    outer = unet.down_blocks[0].resnets[0]
    for resnet, rows in ((outer, (first, last)), (level1, (first, last)), (inner, (0, 8))):
        for block in (resnet.spatial_res_block, resnet.temporal_res_block):
            block.conv2.weight[slice(*rows)] = 0.0  # what they add would drown the means
    _read_motion(inner.spatial_res_block.conv_shortcut, unet.down_blocks[2].attentions[0], slots)


def _read_motion(shortcut: Net, attention: Net, slots: list[int]) -> None:
    """Tokens 0, 1: the pooled noise; 2, 3: its mean over a frame; 4, 5: its mean over the clip."""
    attention.proj_in.weight.sub_(attention.proj_in.weight.mean(dim=0))  # LayerNorm subtracts
    attention.proj_in.bias.sub_(attention.proj_in.bias.mean())  # the mean of a token
    for token, slot in enumerate(slots):
        quad = 4 * token  # the inner level has four channels a norm group
        shortcut.weight[quad : quad + 4] = 0.0
        shortcut.bias[quad : quad + 4] = torch.tensor([0.0, 0.0, CARRIER, 0.0])
        shortcut.weight[quad, slot] = 1.0
        shortcut.weight[quad + 1, slot] = -1.0
        attention.norm.weight[quad : quad + 2] = ATTENTION_GAIN * CARRIER * 3**0.5 / 4
        attention.norm.bias[quad : quad + 2] = ATTENTION_GAIN * CARRIER / 4
        attention.norm.weight[quad + 2 : quad + 4] = 0.0
        attention.proj_in.weight[token] = 0.0
        attention.proj_in.weight[token, quad] = 1.0
        attention.proj_in.bias[token] = 0.0
    attention.proj_in.weight[2:6] = 0.0
    attention.proj_in.bias[2:6] = 0.0
    attention.proj_out.weight[:, 4:6].mul_(4.0)
    blocks = (attention.transformer_blocks[0], attention.temporal_transformer_blocks[0])
    for block, source in zip(blocks, (0, 2), strict=True):
        block.attn1.to_q.weight.mul_(0.05)  # nearly equal weights for all tokens
        for offset in range(2):
            block.attn1.to_v.weight[source + offset] = 0.0
            block.attn1.to_v.weight[source + offset, source + offset] = 1.0
            block.attn1.to_out[0].weight[source + 2 + offset] = 0.0
            block.attn1.to_out[0].weight[source + 2 + offset, source + offset] = 4.0
