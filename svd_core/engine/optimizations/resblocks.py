"""Temporal residual blocks over a whole clip with flat convolutions and a fused blend.

Replaces the temporal half of `SpatioTemporalResBlock`. A Conv3d with a kernel of 3x1x1 mixes frames
and leaves places alone, so over a clip seen as a picture of `frames` rows and `height * width`
columns it is a Conv2d with a kernel of 3x1, which a CPU does nearly four times as fast; with
channels innermost that picture is a view, and no permuted copy is made. The temporal half is
`x + h`, so blending it with `x` is `x + share * h`.
"""

from typing import Any

import torch
from diffusers.models.resnet import SpatioTemporalResBlock
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.engine.optimizations.alpha_blend import temporal_share
from svd_core.engine.optimizations.patching import Forward


def fused_temporal_resblock(layer: Any) -> Forward | None:
    """A forward of a block whose temporal half keeps its number of channels."""
    if not isinstance(layer, SpatioTemporalResBlock):
        return None
    if layer.temporal_res_block.conv_shortcut is not None:
        return None
    share = temporal_share(layer.time_mixer)

    def forward(
        x: Tensor, temb: Tensor | None = None, image_only_indicator: Tensor | None = None
    ) -> Tensor:
        assert image_only_indicator is not None
        out: Tensor = layer.spatial_res_block(x, temb)
        if share == 0.0:
            return out
        clips, frames = image_only_indicator.shape
        clip = as_rows(out, clips, frames)
        mixed = torch.add(clip, temporal_branch(layer.temporal_res_block, clip, temb), alpha=share)
        return as_frames(mixed, out)

    return forward


def as_rows(x: Tensor, clips: int, frames: int) -> Tensor:
    """Pictures (clips * frames, channels, height, width) as (clips, channels, frames, places).

    Channels stay innermost where they are, and outermost where they are: torch's GroupNorm on a
    CPU is fifty times less exact with them innermost, so single precision does not want that.
    """
    if x.is_contiguous():
        return x.view(clips, frames, x.shape[1], -1).transpose(1, 2)
    return x.permute(0, 2, 3, 1).reshape(clips, frames, -1, x.shape[1]).permute(0, 3, 1, 2)


def as_frames(clip: Tensor, like: Tensor) -> Tensor:
    """The way back, to the shape and order of `like`."""
    count, channels, height, width = like.shape
    if like.is_contiguous():
        return clip.transpose(1, 2).reshape(like.shape)
    return clip.permute(0, 2, 3, 1).reshape(count, height, width, channels).permute(0, 3, 1, 2)


def temporal_branch(block: Any, clip: Tensor, temb: Tensor | None) -> Tensor:
    """What `TemporalResnetBlock` adds to `clip` (clips, channels, frames, places)."""
    x = over_frames(block.conv1, F.silu(block.norm1(clip), inplace=True))
    if block.time_emb_proj is not None and temb is not None:
        told = block.time_emb_proj(F.silu(temb))
        x += told.view(len(clip), -1, told.shape[-1], 1).transpose(1, 2)
    return over_frames(block.conv2, F.silu(block.norm2(x), inplace=True))


def over_frames(conv: Any, clip: Tensor) -> Tensor:
    """`conv` (kernel 3x1x1) as a Conv2d on rows of frames; as it is, if its weight is not here."""
    if conv.weight.is_meta and not clip.is_meta:
        out: Tensor = conv(clip[..., None])[..., 0]
        return out
    return F.conv2d(clip, conv.weight[..., 0], conv.bias, padding=(1, 0))
