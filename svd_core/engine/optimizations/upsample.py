"""Upsampling and convolution folded into four small convolutions of the input.

Replaces `Upsample2D`. Doubled, a window of 3x3 pixels shows only 2x2 different ones, so that its
kernel comes to 2x2 sums of weights: one kernel for each of the four places in a doubled pixel. That
is 16 products where stock has 36, and the doubled input is never written.
"""

from typing import Any

import torch
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.engine.optimizations.patching import Forward


def folded_upsample(layer: Any) -> Forward | None:
    """A forward of a layer that doubles by repeating pixels, and convolves 3x3."""
    if not isinstance(layer, Upsample2D) or layer.norm is not None or not layer.interpolate:
        return None
    conv = getattr(layer, "conv", None)
    if layer.use_conv_transpose or not isinstance(conv, nn.Conv2d):
        return None
    shape = conv.kernel_size, conv.padding, conv.stride, conv.dilation, conv.groups
    if shape != ((3, 3), (1, 1), (1, 1), (1, 1), 1):
        return None
    stock = layer.forward

    def forward(x: Tensor, output_size: Any = None, *_: Any, **__: Any) -> Tensor:
        count, _channels, height, width = x.shape
        if output_size is not None and tuple(output_size) != (2 * height, 2 * width):
            out: Tensor = stock(x, output_size)
            return out
        edged = F.pad(x, (1, 1, 1, 1))
        doubled = empty_as(x, (count, conv.out_channels, 2 * height, 2 * width))
        for row, kernels in enumerate(_halves(conv.weight, 2)):
            for column, kernel in enumerate(_halves(kernels, 3)):
                seen = edged[:, :, row : row + height + 1, column : column + width + 1]
                doubled[:, :, row::2, column::2] = F.conv2d(seen, kernel, conv.bias)
        return doubled

    return forward


def empty_as(x: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """Memory for pictures of `shape`, with channels where those of `x` have them."""
    inside = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    order = torch.channels_last if inside else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=order)


def _halves(kernel: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """What three weights along `dim` come to for the first and the second of a doubled pixel."""
    before, at, after = kernel.unbind(dim)
    return torch.stack([before, at + after], dim), torch.stack([before + at, after], dim)
