"""Training of the VAE decoder: from the latents of the linear codec back to pixels."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.training.architecture import Net
from svd_core.training.linear_codec import restore

CARRIER = 24.0
LATENT_NOISE = 0.03
"""Deviation of the noise on latents in training: what comes out of the UNet is never clean."""

LINEAR_STEPS = 600
"""So long only the linear path is learnt, which is most of the picture and quick to compute."""

EDGES, ROUGHNESS = 0.05, 1.0
"""Weights in the loss, beside the squared error, of differences between neighbours and of their
strength. Where what is rough weighs less, leaves and grain come out soft."""

WINDOW = 7
"""Pixels along the side of the squares whose sharpness is compared."""


@torch.no_grad()
def prepare(vae: Net) -> None:
    """Start the decoder as a linear path to the pixels with silent residual branches.

    The last level carries 32 values as triples (a, -a, carrier) through its norm (see
    `linear_codec`), so that brightness survives. Its own branches and all time layers stay silent
    for good: they would cost most of the time and bring little."""
    decoder = vae.decoder
    for name, module in decoder.named_modules():
        if name.endswith("conv2"):
            module.weight.zero_()
            module.bias.zero_()
        elif isinstance(module, nn.Conv2d) and ".conv1" not in name:
            nn.init.orthogonal_(module.weight)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    shortcut = decoder.up_blocks[-1].resnets[0].spatial_res_block.conv_shortcut
    shortcut.weight[1::3] = -shortcut.weight[0::3]
    shortcut.weight[2::3] = 0.0
    shortcut.bias[2::3] = CARRIER
    restore(decoder.conv_norm_out, CARRIER)
    decoder.conv_out.weight[:, 1::3] = -decoder.conv_out.weight[:, 0::3]
    decoder.conv_out.weight[:, 2::3] = 0.0
    nn.init.zeros_(decoder.time_conv_out.weight)
    nn.init.zeros_(decoder.time_conv_out.bias)
    for channel in range(3):
        decoder.time_conv_out.weight[channel, channel, 1] = 1.0


def decode(decoder: Net, latents: Tensor, linear: bool) -> Tensor:
    """What the decoder makes of `latents` (n, channels, height / 4, width / 4), each for itself.

    Only layers that are not silent are computed; with `linear`, no residual branch at all.
    """
    x = decoder.conv_in(latents)
    x = _pass(decoder.mid_block.resnets[0], x, linear)
    for level in decoder.up_blocks:
        for block in level.resnets:
            x = _pass(block, x, linear or level is decoder.up_blocks[-1])
        for upsampler in level.upsamplers or ():
            x = upsampler(x)
    pixels: Tensor = decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(x)))
    return pixels


def _pass(block: Net, x: Tensor, silent: bool) -> Tensor:
    spatial = block.spatial_res_block
    if not silent:
        passed: Tensor = spatial(x, None)
        return passed
    return x if spatial.conv_shortcut is None else spatial.conv_shortcut(x)


def loss(decoded: Tensor, pixels: Tensor) -> Tensor:
    """Squared error, plus the absolute error of differences between neighbours, for sharp edges,
    plus that of their strength in squares of `WINDOW_SIDE`: what cannot be known exactly, such as
    leaves, should at least be as rough as in the photo."""
    loss = F.mse_loss(decoded, pixels)
    for axis in (-1, -2):
        made, wanted = decoded.diff(dim=axis), pixels.diff(dim=axis)
        loss = loss + EDGES * (made - wanted).abs().mean()
        loss = loss + ROUGHNESS * (_edge_weight(made) - _edge_weight(wanted)).abs().mean()
    return loss


def _edge_weight(differences: Tensor) -> Tensor:
    energy = differences.square().mean(dim=1, keepdim=True)
    return (F.avg_pool2d(energy, WINDOW, stride=3) + 1e-4).sqrt()
