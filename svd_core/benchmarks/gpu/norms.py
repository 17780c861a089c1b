"""GroupNorm and SiLU over a clip in one pass, as a candidate for the residual blocks.

torch's GroupNorm gives one block of threads to each group of each sample. A clip is one sample in
the temporal layers, so 32 blocks do all the work of a GPU with 132 multiprocessors. The candidates
compute the moments in many blocks first, in single precision.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D, SpatioTemporalResBlock
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.engine.optimizations.patching import Forward, Rewrite
from svd_core.engine.optimizations.resblocks import as_frames, as_rows, over_frames, temporal_share

NormSilu = Callable[[Any, Tensor], Tensor]
"""From a GroupNorm and (samples, channels, rows, columns) to silu(norm(x)) of that shape."""


def torch_norm_silu(norm: Any, x: Tensor) -> Tensor:
    return F.silu(norm(x), inplace=True)


def framewise_norm_silu(norm: Any, x: Tensor) -> Tensor:
    """Plain torch, with the moments of each frame first; for a clip in frame-major layout."""
    clips, channels, count, places = x.shape
    frames = x.transpose(1, 2)
    if not frames.is_contiguous():
        return torch_norm_silu(norm, x)
    groups, each = norm.num_groups, channels // norm.num_groups
    runs = frames.reshape(clips * count, groups, each * places)
    numbers = count * each * places
    mean = runs.sum(-1, dtype=torch.float32).view(clips, count, groups).sum(1) / numbers
    square = torch.linalg.vector_norm(runs, dim=-1, dtype=torch.float32).square()
    variance = (square.view(clips, count, groups).sum(1) / numbers - mean.square()).clamp(min=0)
    mean, variance = (part.repeat_interleave(each, 1) for part in (mean, variance))
    weight, bias = norm.weight.float(), norm.bias.float()
    normed = [
        F.batch_norm(frames[i], mean[i], variance[i], weight, bias, False, 0.0, norm.eps)
        for i in range(clips)
    ]
    return F.silu(torch.stack(normed), inplace=True).transpose(1, 2)


def triton_norm_silu() -> NormSilu:
    """Triton kernels for any layout of `x`. Raises `ImportError` without Triton."""
    from svd_core.benchmarks.gpu import norm_kernels as kernels

    def norm_silu(norm: Any, x: Tensor) -> Tensor:
        samples, channels, rows, columns = x.shape
        if x.is_contiguous():
            whole = x.view(samples, 1, channels, rows * columns)
            return kernels.channels_outside(norm, whole).view(x.shape)
        frames = x.transpose(1, 2)
        if frames.is_contiguous():
            return kernels.channels_outside(norm, frames)
        inside = x.permute(0, 2, 3, 1)
        if inside.is_contiguous():
            places = inside.reshape(samples, rows * columns, channels)
            out: Tensor = kernels.channels_inside(norm, places)
            return out.view(inside.shape).permute(0, 3, 1, 2)
        return torch_norm_silu(norm, x)

    return norm_silu


def with_norms(norm_silu: NormSilu) -> list[tuple[str, Rewrite]]:
    """Rewrites of residual blocks, applied before the default ones of the same layers."""

    def temporal(layer: Any) -> Forward | None:
        plain = isinstance(layer, SpatioTemporalResBlock)
        if not plain or layer.temporal_res_block.conv_shortcut is not None:
            return None
        return _temporal_forward(layer, norm_silu)

    def spatial(layer: Any) -> Forward | None:
        plain = isinstance(layer, ResnetBlock2D) and layer.time_embedding_norm == "default"
        if not plain or layer.upsample is not None or layer.downsample is not None:
            return None
        return _spatial_forward(layer, norm_silu)

    return [("temporal norms", temporal), ("spatial norms", spatial)]


def _temporal_forward(layer: Any, norm_silu: NormSilu) -> Forward:
    share, block = temporal_share(layer.time_mixer), layer.temporal_res_block

    def forward(x: Tensor, temb: Tensor | None = None, image_only_indicator: Any = None) -> Tensor:
        out: Tensor = layer.spatial_res_block(x, temb)
        clips, frames = image_only_indicator.shape
        clip = as_rows(out, clips, frames)
        h = over_frames(block.conv1, norm_silu(block.norm1, clip))
        if block.time_emb_proj is not None and temb is not None:
            shift = block.time_emb_proj(F.silu(temb))
            h += shift.view(clips, -1, shift.shape[-1], 1).transpose(1, 2)
        h = over_frames(block.conv2, norm_silu(block.norm2, h))
        return as_frames(torch.add(clip, h, alpha=share), out)

    return forward


def _spatial_forward(layer: Any, norm_silu: NormSilu) -> Forward:
    def forward(x: Tensor, temb: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        h = layer.conv1(norm_silu(layer.norm1, x))
        if layer.time_emb_proj is not None and temb is not None:
            h += layer.time_emb_proj(F.silu(temb))[:, :, None, None]
        h = layer.conv2(norm_silu(layer.norm2, h))
        h += x if layer.conv_shortcut is None else layer.conv_shortcut(x)
        added: Tensor = h
        return added

    return forward
