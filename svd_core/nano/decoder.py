"""Training the VAE's decoder: from the linear codec's latents back to pixels."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.nano.codec import restore
from svd_core.nano.shape import Net

CARRIER = 24.0
LATENT_NOISE = 0.06
"""Deviation of the noise on latents in training: what comes out of the UNet is never clean."""


@torch.no_grad()
def prepare(vae: Net) -> None:
    """Start the decoder as a linear path to the pixels with silent residual branches.

    The last level carries 32 values as triples (a, -a, carrier) through its norms (see `codec`), so
    that brightness survives; time layers start as the identity.
    """
    decoder = vae.decoder
    for name, module in decoder.named_modules():
        if name.endswith("conv2"):
            module.weight.mul_(0.1)
            module.bias.zero_()
        if ".temporal_res_block.conv2" in name:
            module.weight.zero_()
    last = decoder.up_blocks[-1].resnets
    shortcut = last[0].spatial_res_block.conv_shortcut
    shortcut.weight[1::3] = -shortcut.weight[0::3]
    shortcut.weight[2::3] = 0.0
    shortcut.bias.zero_()
    shortcut.bias[2::3] = CARRIER
    norms = [last[0].temporal_res_block.norm1, last[1].temporal_res_block.norm1]
    for norm in [*norms, last[1].spatial_res_block.norm1, decoder.conv_norm_out]:
        restore(norm, CARRIER)
    decoder.conv_out.weight[:, 1::3] = -decoder.conv_out.weight[:, 0::3]
    decoder.conv_out.weight[:, 2::3] = 0.0
    nn.init.zeros_(decoder.time_conv_out.weight)
    nn.init.zeros_(decoder.time_conv_out.bias)
    for channel in range(3):
        decoder.time_conv_out.weight[channel, channel, 1] = 1.0


def loss(decoded: Tensor, pixels: Tensor) -> Tensor:
    """Squared error plus the absolute error of differences between neighbours, for sharp edges."""
    squared = F.mse_loss(decoded, pixels)
    across = (decoded.diff(dim=-1) - pixels.diff(dim=-1)).abs().mean()
    down = (decoded.diff(dim=-2) - pixels.diff(dim=-2)).abs().mean()
    return squared + 0.1 * (across + down)
