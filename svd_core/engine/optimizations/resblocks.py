"""Temporal residual blocks over a whole clip with flat convolutions and a fused blend.

Replaces the temporal half of `SpatioTemporalResBlock`. A Conv3d with a kernel of 3x1x1 mixes frames
and leaves places alone, so over a clip seen as a picture of `frames` rows and `height * width`
columns it is a Conv2d with a kernel of 3x1, which a CPU does nearly four times as fast; with
channels innermost that picture is a view, and no permuted copy is made. The temporal half is
`x + h`, so blending it with `x` is `x + share * h`.

`AlphaBlender` of spatial and temporal output as one linear interpolation.

Stock builds the factor from tensors at every call and blends in three passes over the picture. The
factor is a weight, so it is the same at every call: this pipeline marks no frame as a still image,
which is the one thing that would change it. Near 1 the temporal half is not worth a computation.

`ResnetBlock2D` without its division by one.

Stock divides by `output_scale_factor`, which is 1, in a pass of its own; activations here are in
place, which saves the processor from touching fresh memory.
"""

from typing import Any

import torch
from diffusers.models.resnet import AlphaBlender, ResnetBlock2D, SpatioTemporalResBlock
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.engine.optimizations.patching import Forward


def temporal_share(blender: Any) -> float:
    """What the temporal half is multiplied by, rounded as stock rounds it."""
    alpha = blender.mix_factor.detach()
    if blender.merge_strategy != "fixed":
        alpha = torch.sigmoid(alpha)
    share = alpha if blender.switch_spatial_to_temporal_mix else 1.0 - alpha
    return float(share)


def blend_in_one_pass(layer: Any) -> Forward | None:
    """`torch.lerp`, or what it comes to: one of the halves as it is."""
    if not isinstance(layer, AlphaBlender):
        return None
    share = temporal_share(layer)

    def forward(x_spatial: Tensor, x_temporal: Tensor, *_: Any, **__: Any) -> Tensor:
        if share in (0.0, 1.0):
            return x_temporal if share else x_spatial
        return torch.lerp(x_spatial, x_temporal, share)

    return forward


def resnet_without_division(layer: Any) -> Forward | None:
    """A forward of a plain block, which neither scales nor resizes."""
    if not isinstance(layer, ResnetBlock2D) or layer.time_embedding_norm != "default":
        return None
    if layer.upsample is not None or layer.downsample is not None or layer.skip_time_act:
        return None
    if layer.output_scale_factor != 1.0 or not isinstance(layer.nonlinearity, nn.SiLU):
        return None

    def forward(x: Tensor, temb: Tensor | None, *_: Any, **__: Any) -> Tensor:
        h = layer.conv1(F.silu(layer.norm1(x), inplace=True))
        if layer.time_emb_proj is not None:
            assert temb is not None
            h += layer.time_emb_proj(F.silu(temb))[:, :, None, None]
        h = layer.conv2(F.silu(layer.norm2(h), inplace=True))
        h += x if layer.conv_shortcut is None else layer.conv_shortcut(x)
        added: Tensor = h
        return added

    return forward


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
