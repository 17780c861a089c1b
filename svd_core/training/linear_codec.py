"""Linear codec in the VAE encoder: principal components of 4x4 blocks.

An encoder that is exactly one matrix per block costs a thousandth of a learnt one in training (the
target of every clip has to be encoded) and commutes well with motion. It is written into the stock
`AutoencoderKLTemporalDecoder` weights, so that plain diffusers runs it; only the decoder is learnt.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.training.architecture import LATENT_CHANNELS, PATCH, Net

CARRIER = 384.0
"""A constant beside each value in its norm group: the group's statistics are then the constant's,
so GroupNorm is the identity up to 3 value^2 / CARRIER^2. Exact in bfloat16, as is a third of it."""


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

    Each component is divided by the square root of its deviation: with full whitening, fine detail
    dominated the UNet's loss; without any, it was ignored.
    """
    scaled = components / deviations.sqrt()[:, None]
    return scaled.reshape(LATENT_CHANNELS, 3, PATCH, PATCH)


def encode(pixels: Tensor, kernel: Tensor) -> Tensor:
    """(n, 3, height, width) in [-1, 1] -> (n, LATENT_CHANNELS, height / 4, width / 4)."""
    return F.conv2d(pixels, kernel, stride=PATCH)


@torch.no_grad()
def install(encoder: Net, quant_conv: Net, kernel: Tensor) -> None:
    """Write the linear codec into a stock encoder: its `mode()` is then `encode`.

    The first stride-2 convolution gathers 2x2 pixels into channels, the second applies the kernel;
    every residual branch adds zero; the closing norm and SiLU are undone by `restore` and pairs.
    """
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            for parameter in module.parameters():
                parameter.zero_()
    first, second = (block.downsamplers[0].conv for block in list(encoder.down_blocks)[:2])
    middle, last = (block.resnets[0].conv_shortcut for block in list(encoder.down_blocks)[1:])
    _pass_through(encoder.conv_in.weight, 3)
    for position in range(4):  # it pads right and below only, so tap (0, 0) is the pixel itself
        for channel in range(3):
            first.weight[3 * position + channel, channel, position // 2, position % 2] = 1.0
    _pass_through(middle.weight, 12)
    second.weight[:LATENT_CHANNELS, :12, :2, :2] = _as_taps(kernel)
    for latent in range(LATENT_CHANNELS):
        last.weight[3 * latent, latent] = 1.0
        last.weight[3 * latent + 1, latent] = -1.0
        last.bias[3 * latent + 2] = CARRIER
    restore(encoder.conv_norm_out, CARRIER)
    for latent in range(LATENT_CHANNELS):
        encoder.conv_out.weight[latent, 3 * latent, 1, 1] = 1.0  # silu(a) - silu(-a) = a
        encoder.conv_out.weight[latent, 3 * latent + 1, 1, 1] = -1.0
    quant_conv.weight.zero_()
    quant_conv.bias.zero_()
    _pass_through(quant_conv.weight, LATENT_CHANNELS)
    quant_conv.bias[LATENT_CHANNELS:] = -20.0  # log-variance: the mode is the sample


def installed(encoder: Net) -> Tensor:
    """The kernel that `install` wrote into `encoder`."""
    second: Tensor = encoder.down_blocks[1].downsamplers[0].conv.weight.detach().float()
    taps = second[:LATENT_CHANNELS, :12, :2, :2].reshape(-1, 2, 2, 3, 2, 2)  # c, y1 x1, rgb, y2 x2
    ordered = taps.permute(0, 3, 4, 1, 5, 2)
    return ordered.reshape(LATENT_CHANNELS, 3, PATCH, PATCH).contiguous()


def _as_taps(kernel: Tensor) -> Tensor:
    """`kernel` as the 2x2 taps of a convolution over 2x2 pixels in 12 channels (y, x, rgb)."""
    ordered = kernel.reshape(LATENT_CHANNELS, 3, 2, 2, 2, 2)  # c, rgb, y2 y1, x2 x1
    return ordered.permute(0, 3, 5, 1, 2, 4).reshape(LATENT_CHANNELS, 12, 2, 2)


@torch.no_grad()
def restore(norm: Net, carrier: float, start: int = 0, stop: int | None = None) -> None:
    """Make `norm` the identity on channels `start` to `stop`, which hold triples (a, -a, carrier).

    The mean of a triple is a third of the carrier, its deviation that of (0, 0, carrier). The
    carrier itself comes out as 1: it has done its work, and large constants upset what follows.
    """
    norm.weight[start:stop] = carrier * 2**0.5 / 3
    norm.bias[start:stop] = carrier / 3
    norm.weight[start:stop][2::3] = 0.0
    norm.bias[start:stop][2::3] = 1.0


def _pass_through(weight: Tensor, channels: int) -> None:
    middle = weight.shape[-1] // 2
    for channel in range(channels):
        weight[channel, channel, middle, middle] = 1.0


def _mirror(blocks: Tensor, axis: int) -> Tensor:
    return blocks.reshape(-1, 3, PATCH, PATCH).flip(axis).reshape(len(blocks), -1)
