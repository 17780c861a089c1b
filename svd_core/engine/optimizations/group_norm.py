"""GroupNorm, mostly with SiLU, over a clip: torch's layer, sums by frames, or Triton kernels.

torch's GroupNorm gives one block of threads to each group of each sample. In temporal layers a clip
is one sample, so only 32 of the 132 multiprocessors of a GPU work. Sums by frames and Triton's
kernels first compute the moments in many blocks, in single precision.
"""

from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.engine.optimizations.patching import Forward
from svd_core.engine.optimizations.probe import WIDER, Case, Choice


class ClipNorm(Protocol):
    """A way to compute GroupNorm `norm` of `x` (samples, channels, rows, columns), then SiLU.

    `x` may have channels or rows outermost in memory, and is not overwritten.
    """

    def __call__(self, norm: Any, x: Tensor, silu: bool = True) -> Tensor: ...


def torch_norm(norm: Any, x: Tensor, silu: bool = True) -> Tensor:
    """torch's own GroupNorm."""
    normed = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    return F.silu(normed, inplace=True) if silu else normed


def framewise_norm(norm: Any, x: Tensor, silu: bool = True) -> Tensor:
    """Plain torch, from the moments of each frame, for a clip with rows outermost in memory."""
    clips, channels, count, places = x.shape
    frames = x.transpose(1, 2)
    if not frames.is_contiguous():
        return torch_norm(norm, x, silu)
    groups, each = norm.num_groups, channels // norm.num_groups
    runs = frames.reshape(clips * count, groups, each * places)
    numbers = count * each * places
    mean = runs.sum(-1, dtype=torch.float32).view(clips, count, groups).sum(1) / numbers
    square = torch.linalg.vector_norm(runs, dim=-1, dtype=torch.float32).square()
    variance = (square.view(clips, count, groups).sum(1) / numbers - mean.square()).clamp(min=0)
    mean, variance = (part.repeat_interleave(each, 1) for part in (mean, variance))
    weight, bias = norm.weight.float(), norm.bias.float()
    normed = torch.stack(
        [
            F.batch_norm(frames[i], mean[i], variance[i], weight, bias, False, 0.0, norm.eps)
            for i in range(clips)
        ]
    )
    return (F.silu(normed, inplace=True) if silu else normed).transpose(1, 2)


def triton_norm(norm: Any, x: Tensor, silu: bool = True) -> Tensor:
    """Triton's kernels, for each memory layout of `x`. Raises `ImportError` without Triton.

    Compiled code uses torch's own, which the compiler fuses with its neighbours.
    """
    if torch.compiler.is_compiling():
        return torch_norm(norm, x, silu)
    from svd_core.engine.optimizations import norm_kernels as kernels

    samples, channels, rows, columns = x.shape
    if x.is_contiguous():
        out = kernels.channels_outside(norm, x.view(samples, 1, channels, rows * columns), silu)
        return out.view(x.shape)
    frames, inside = x.transpose(1, 2), x.permute(0, 2, 3, 1)
    if frames.is_contiguous():
        return kernels.channels_outside(norm, frames, silu)
    if inside.is_contiguous():
        places = inside.reshape(samples, rows * columns, channels)
        out = kernels.channels_inside(norm, places, silu)
        return out.view(inside.shape).permute(0, 3, 1, 2)
    return torch_norm(norm, x, silu)


def group_norm_channels_last(layer: Any, norm: ClipNorm = torch_norm) -> Forward | None:
    """A forward of `GroupNorm` by `norm` that keeps channels innermost in memory.

    torch's own is slower there, and puts channels outermost.
    """
    if not isinstance(layer, nn.GroupNorm) or norm in (torch_norm, framewise_norm):
        return None
    stock = layer.forward

    def forward(x: Tensor) -> Tensor:
        if x.dim() == 4 and order_of(x) is torch.channels_last:
            return norm(layer, x, silu=False)
        return stock(x)

    return forward


def order_of(x: Tensor) -> torch.memory_format:
    """Where the pictures `x` have their channels in memory: outermost if both fit."""
    inside = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if inside else torch.contiguous_format


STOCK = "torch"

NORMS: Mapping[str, ClipNorm] = {
    STOCK: torch_norm,
    "framewise": framewise_norm,
    "triton": triton_norm,
}
"""By the name of a candidate."""

FRAMES, GROUPS = 25, 32

SHAPES = ((320, 72, 128), (128, 144, 256))
"""Channels, height and width: SVD-XT's UNet, and its decoder with a sixteenth of the pixels. The
whole would take 13 GB."""


def cases(device: str, dtype: torch.dtype) -> list[Case]:
    """The norms of a clip at each of `SHAPES`, as a spatial and as a temporal layer sees it."""
    generator = torch.Generator(device).manual_seed(0)
    listed = []
    for channels, height, width in SHAPES:
        size = FRAMES, channels, height * width
        frames = torch.randn(size, generator=generator, device=device, dtype=dtype) * 2 + 1
        layer = nn.GroupNorm(GROUPS, channels, device=device, dtype=dtype)
        nn.init.normal_(layer.weight, generator=generator)
        for x in (frames[..., None], frames.transpose(0, 1)[None]):
            wider = deepcopy(layer).to(WIDER[dtype])
            listed.append(Case(partial(_by_name, layer, x), F.silu(wider(x.to(WIDER[dtype])))))
    return listed


def _by_name(layer: Any, x: Tensor, name: str) -> Tensor:
    return NORMS[name](layer, x)


def norm_choice() -> Choice:
    """The choice between torch's GroupNorm and those that fill a GPU."""
    return Choice("GroupNorm", STOCK, tuple(NORMS), cases)
