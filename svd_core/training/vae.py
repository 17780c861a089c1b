"""VAE of svd-nano: a linear encoder, written into the stock weights, and a learnt decoder.

The encoder is a linear codec: principal components of 4x4 blocks. Training encodes the target of
every clip, and one matrix per block costs a thousandth of a learnt encoder. The codec also commutes
well with motion. It is written into the stock `AutoencoderKLTemporalDecoder`, which plain diffusers
runs. Only the decoder is learnt.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.training.architecture import LATENT_CHANNELS, PATCH, Net

ENCODER_CARRIER = 384.0
"""Constant in the norm group of each value, which dominates the group's statistics. GroupNorm is
then the identity up to 3 value^2 / ENCODER_CARRIER^2. Exact in bfloat16, as is a third of it."""


def principal_components(pictures: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Components (LATENT_CHANNELS, 48) of 4x4 blocks and their deviations (LATENT_CHANNELS,).

    `pictures`: RGB, shape (3, height, width), range [-1, 1]. The mean is left in: component 0 is
    brightness. Blocks are mirrored too, so that motion to the left looks like motion to the right.
    """
    total = torch.zeros(3 * PATCH * PATCH, 3 * PATCH * PATCH, dtype=torch.float64)
    count = 0
    for picture in pictures:
        blocks = F.unfold(picture[None], PATCH, stride=3)[0].T
        for flipped in (blocks, _mirror(blocks, 3), _mirror(blocks, 2)):
            total += (flipped.T @ flipped).double()
            count += len(flipped)
    values, vectors = torch.linalg.eigh(total / count)
    top = vectors.flip(1)[:, :LATENT_CHANNELS].T
    return top.float(), values.flip(0)[:LATENT_CHANNELS].sqrt().float()


def encoding_kernel(components: Tensor, deviations: Tensor) -> Tensor:
    """Kernel (LATENT_CHANNELS, 3, 4, 4) of the stride-4 convolution that encodes [-1, 1] pixels.

    Each component is divided by the square root of its deviation. With full whitening, fine detail
    dominated the UNet's loss; without any, it was ignored.
    """
    scaled = components / deviations.sqrt()[:, None]
    return scaled.reshape(LATENT_CHANNELS, 3, PATCH, PATCH)


def encode(pixels: Tensor, kernel: Tensor) -> Tensor:
    """Encode (n, 3, height, width) in [-1, 1] as (n, LATENT_CHANNELS, height / 4, width / 4)."""
    return F.conv2d(pixels, kernel, stride=PATCH)


@torch.no_grad()
def install_encoder(encoder: Net, quant_conv: Net, kernel: Tensor) -> None:
    """Write the linear codec into a stock encoder: its `mode()` is then `encode`.

    The first stride-2 convolution gathers 2x2 pixels into channels, the second applies the kernel;
    every residual branch adds zero; `restore_norm` and pairs undo the last norm and SiLU.
    """
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            for parameter in module.parameters():
                parameter.zero_()
    first, second = (block.downsamplers[0].conv for block in encoder.down_blocks[:2])
    middle, last = (block.resnets[0].conv_shortcut for block in encoder.down_blocks[1:])
    _pass_through(encoder.conv_in.weight, 3)
    for position in range(4):  # it pads right and below only, so tap (0, 0) is the pixel itself
        for channel in range(3):
            first.weight[3 * position + channel, channel, position // 2, position % 2] = 1.0
    _pass_through(middle.weight, 12)
    second.weight[:LATENT_CHANNELS, :12, :2, :2] = _as_taps(kernel)
    for latent in range(LATENT_CHANNELS):
        last.weight[3 * latent, latent] = 1.0
        last.weight[3 * latent + 1, latent] = -1.0
        last.bias[3 * latent + 2] = ENCODER_CARRIER
    restore_norm(encoder.conv_norm_out, ENCODER_CARRIER)
    for latent in range(LATENT_CHANNELS):
        encoder.conv_out.weight[latent, 3 * latent, 1, 1] = 1.0  # silu(a) - silu(-a) = a
        encoder.conv_out.weight[latent, 3 * latent + 1, 1, 1] = -1.0
    quant_conv.weight.zero_()
    quant_conv.bias.zero_()
    _pass_through(quant_conv.weight, LATENT_CHANNELS)
    quant_conv.bias[LATENT_CHANNELS:] = -20.0  # log-variance: the mode is the sample


def _as_taps(kernel: Tensor) -> Tensor:
    """`kernel` as the 2x2 taps of a convolution over 2x2 pixels in 12 channels (y, x, rgb)."""
    ordered = kernel.reshape(LATENT_CHANNELS, 3, 2, 2, 2, 2)  # c, rgb, y2 y1, x2 x1
    return ordered.permute(0, 3, 5, 1, 2, 4).reshape(LATENT_CHANNELS, 12, 2, 2)


@torch.no_grad()
def restore_norm(norm: Net, carrier: float) -> None:
    """Make `norm` the identity on channels that hold triples (a, -a, carrier).

    The mean of a triple is a third of the carrier, its deviation that of (0, 0, carrier). The
    carrier itself becomes 1, since large constants upset the layers that follow.
    """
    norm.weight.fill_(carrier * 2**0.5 / 3)
    norm.bias.fill_(carrier / 3)
    norm.weight[2::3] = 0.0
    norm.bias[2::3] = 1.0


def _pass_through(weight: Tensor, channels: int) -> None:
    middle = weight.shape[-1] // 2
    for channel in range(channels):
        weight[channel, channel, middle, middle] = 1.0


def _mirror(blocks: Tensor, axis: int) -> Tensor:
    return blocks.reshape(-1, 3, PATCH, PATCH).flip(axis).reshape(len(blocks), -1)


# Decoder


DECODER_CARRIER = 24.0

LATENT_NOISE = 0.03
"""Deviation of the noise on latents in training, since those of the UNet are never clean."""

LINEAR_STEPS = 600
"""Steps on the linear path alone, which gives most of the picture and is quick to compute."""

EDGE_WEIGHT, ROUGHNESS_WEIGHT = 0.05, 1.0
"""Weights of edges and of roughness in the loss; the squared error has weight 1. With a smaller
weight of roughness, leaves and grain become soft."""

ROUGHNESS_WINDOW = 7
"""Side in pixels of the squares whose roughness is compared."""


@torch.no_grad()
def prepare_decoder(vae: Net) -> None:
    """Start the decoder as a linear path to the pixels with silent residual branches.

    The last level carries 32 values as triples (a, -a, carrier) through its norm (`restore_norm`),
    so that brightness survives. Its residual branches and all time layers always add zero: they
    would take most of the time and improve little.
    """
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
    shortcut.bias[2::3] = DECODER_CARRIER
    restore_norm(decoder.conv_norm_out, DECODER_CARRIER)
    decoder.conv_out.weight[:, 1::3] = -decoder.conv_out.weight[:, 0::3]
    decoder.conv_out.weight[:, 2::3] = 0.0
    nn.init.zeros_(decoder.time_conv_out.weight)
    nn.init.zeros_(decoder.time_conv_out.bias)
    for channel in range(3):
        decoder.time_conv_out.weight[channel, channel, 1] = 1.0


def decode(decoder: Net, latents: Tensor, linear: bool) -> Tensor:
    """Decode `latents` (n, channels, height / 4, width / 4), each frame alone.

    Only layers that add something are computed; with `linear`, no residual branch at all.
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


def decoder_loss(decoded: Tensor, pixels: Tensor) -> Tensor:
    """Squared error, plus absolute errors of edges and of roughness.

    Edges are differences between neighbours. Roughness is their strength in squares of
    `ROUGHNESS_WINDOW`: leaves, which cannot be known exactly, should be as rough as in the photo.
    """
    error = F.mse_loss(decoded, pixels)
    for axis in (-1, -2):
        made, target = decoded.diff(dim=axis), pixels.diff(dim=axis)
        error = error + EDGE_WEIGHT * (made - target).abs().mean()
        error = error + ROUGHNESS_WEIGHT * (_roughness(made) - _roughness(target)).abs().mean()
    return error


def _roughness(differences: Tensor) -> Tensor:
    energy = differences.square().mean(dim=1, keepdim=True)
    return (F.avg_pool2d(energy, ROUGHNESS_WINDOW, stride=3) + 1e-4).sqrt()
