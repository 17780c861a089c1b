"""Spatio-temporal ResNet blocks of UNet and VAE: convolutions over frames, blending, upsampling.

Functions that return `Forward | None` are rewrites, see `patching`.
"""

from typing import Any

import torch
from diffusers.models.resnet import AlphaBlender, ResnetBlock2D, SpatioTemporalResBlock
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.engine.optimizations.group_norm import ClipNorm, order_of, torch_norm
from svd_core.engine.optimizations.patching import Forward


def fused_temporal_resblock(layer: Any, norm: ClipNorm = torch_norm) -> Forward | None:
    """A forward of `SpatioTemporalResBlock` with flat convolutions over the frames of a whole clip.

    A Conv3d with a kernel of 3x1x1 mixes frames but no places. So on a clip as a picture of
    `frames` rows and `height * width` columns it is a Conv2d with a kernel of 3x1, which a CPU
    computes nearly four times as fast. With channels innermost that picture is a view, without a
    copy. The temporal half is `x + h`, so blending it with `x` is `x + share * h`. It must keep its
    number of channels.
    """
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
        branch = temporal_branch(layer.temporal_res_block, clip, temb, norm)
        mixed = torch.add(clip, branch, alpha=share)
        return as_frames(mixed, out)

    return forward


def as_rows(x: Tensor, clips: int, frames: int) -> Tensor:
    """Pictures (clips * frames, channels, height, width) as (clips, channels, frames, places).

    The order of memory is kept. With channels innermost, torch's GroupNorm on a CPU has fifty times
    the error, which is too much in single precision.
    """
    if x.is_contiguous():
        return x.view(clips, frames, x.shape[1], -1).transpose(1, 2)
    return x.permute(0, 2, 3, 1).reshape(clips, frames, -1, x.shape[1]).permute(0, 3, 1, 2)


def as_frames(clip: Tensor, like: Tensor) -> Tensor:
    """`clip` (see `as_rows`) as pictures again, in the shape and memory order of `like`."""
    count, channels, height, width = like.shape
    if like.is_contiguous():
        return clip.transpose(1, 2).reshape(like.shape)
    return clip.permute(0, 2, 3, 1).reshape(count, height, width, channels).permute(0, 3, 1, 2)


def temporal_branch(block: Any, clip: Tensor, temb: Tensor | None, norm: ClipNorm) -> Tensor:
    """What `TemporalResnetBlock` adds to `clip` (clips, channels, frames, places)."""
    x = over_frames(block.conv1, norm(block.norm1, clip))
    if block.time_emb_proj is not None and temb is not None:
        shift = block.time_emb_proj(F.silu(temb))
        x += shift.view(len(clip), -1, shift.shape[-1], 1).transpose(1, 2)
    return over_frames(block.conv2, norm(block.norm2, x))


def over_frames(conv: Any, clip: Tensor) -> Tensor:
    """`conv` (kernel 3x1x1) as a Conv2d on rows of frames."""
    return F.conv2d(clip, conv.weight[..., 0], conv.bias, padding=(1, 0))


def blend_in_one_pass(layer: Any) -> Forward | None:
    """A forward of `AlphaBlender` as one linear interpolation of spatial and temporal output.

    Stock builds the factor from tensors at every call and blends in three passes over the picture.
    The factor is a weight, so it is constant. (Only frames marked as still images would change it,
    and this pipeline marks none.) At 0 or 1 one of the halves is the result.
    """
    if not isinstance(layer, AlphaBlender):
        return None
    share = temporal_share(layer)

    def forward(x_spatial: Tensor, x_temporal: Tensor, *_: Any, **__: Any) -> Tensor:
        if share in (0.0, 1.0):
            return x_temporal if share else x_spatial
        return torch.lerp(x_spatial, x_temporal, share)

    return forward


def temporal_share(blender: Any) -> float:
    """Factor of the temporal half in the blend, rounded as stock rounds it."""
    alpha = blender.mix_factor.detach()
    if blender.merge_strategy != "fixed":
        alpha = torch.sigmoid(alpha)
    share = alpha if blender.switch_spatial_to_temporal_mix else 1.0 - alpha
    return float(share)


def resnet_without_division(layer: Any, norm: ClipNorm = torch_norm) -> Forward | None:
    """A forward of `ResnetBlock2D` without its division by one, if it neither scales nor resizes.

    Stock divides by `output_scale_factor`, which is 1, in a pass of its own. Here activations are
    in place, so that no new memory is touched.
    """
    if not isinstance(layer, ResnetBlock2D) or layer.time_embedding_norm != "default":
        return None
    if layer.upsample is not None or layer.downsample is not None or layer.skip_time_act:
        return None
    if layer.output_scale_factor != 1.0 or not isinstance(layer.nonlinearity, nn.SiLU):
        return None

    def forward(x: Tensor, temb: Tensor | None, *_: Any, **__: Any) -> Tensor:
        h = layer.conv1(norm(layer.norm1, x))
        if layer.time_emb_proj is not None:
            assert temb is not None
            h += layer.time_emb_proj(F.silu(temb))[:, :, None, None]
        h = layer.conv2(norm(layer.norm2, h))
        h += x if layer.conv_shortcut is None else layer.conv_shortcut(x)
        return h

    return forward


def folded_upsample(layer: Any) -> Forward | None:
    """A forward of `Upsample2D`, doubling and a 3x3 convolution, as four small convolutions.

    In a picture doubled by repeating pixels, a window of 3x3 has only 2x2 different ones. So the
    kernel reduces to 2x2 sums of weights for each of the four places in a doubled pixel. That is 16
    products instead of 36, and the doubled input is never written.
    """
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
            return stock(x, output_size)
        edged = F.pad(x, (1, 1, 1, 1))
        doubled = empty_as(x, (count, conv.out_channels, 2 * height, 2 * width))
        for row, kernels in enumerate(_halves(conv.weight, 2)):
            for column, kernel in enumerate(_halves(kernels, 3)):
                window = edged[:, :, row : row + height + 1, column : column + width + 1]
                doubled[:, :, row::2, column::2] = F.conv2d(window, kernel, conv.bias)
        return doubled

    return forward


def _halves(kernel: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Sums of the three weights along `dim`, for the first and the second of a doubled pixel."""
    before, at, after = kernel.unbind(dim)
    return torch.stack([before, at + after], dim), torch.stack([before + at, after], dim)


def empty_as(x: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """Memory for pictures of `shape`, in the order of `x`."""
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=order_of(x))
