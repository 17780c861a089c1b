"""Chunked VAE decode with the pixels of decoding all frames at once.

Stock saves memory by decoding some frames at a time, which changes every pixel, since the norms of
temporal layers see all frames of a chunk. Here only the layers between temporal ones take some
frames at a time. A temporal layer takes the whole clip, but a few rows of pixels at a time, since
it mixes no pixels; its norms first sum their statistics over the rows. One tensor of the largest
size is in memory instead of several, and a quarter of the temporal work is done twice.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from diffusers.models.resnet import SpatioTemporalResBlock
from diffusers.models.upsampling import Upsample2D
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.engine.optimizations.patching import patch_name
from svd_core.engine.optimizations.resblocks import empty_as, over_frames

FrameLayer = Callable[[Tensor], Tensor]
OnShare = Callable[[float], None]

ROWS_BYTES = 2**28
"""Bytes of one slice of rows in single precision; a few of them are in memory at a time."""


@contextmanager
def chunked_decode(decoder: Any, count: int, on_share: OnShare) -> Iterator[None]:
    """Have `decoder`, a `TemporalDecoder`, take `count` frames at a time until the context ends.

    `on_share` is called with the approximate share of the work that is done, and may raise.
    """

    def forward(sample: Tensor, *_: Any, **__: Any) -> Tensor:
        sample = sample.clone()  # it may be overwritten
        stages = list(_stages(decoder))
        sizes = list(_sizes(stages))
        for number, (layers, temporal) in enumerate(stages):
            done, share = sum(sizes[:number]) / sum(sizes), sizes[number] / sum(sizes)
            sample = _frame_by_frame(layers, sample, count, _after(done, share, on_share))
            if temporal is not None:
                _over_the_clip(temporal, sample)
        clip = sample.transpose(0, 1)[None]
        return decoder.time_conv_out(clip)[0].transpose(0, 1)

    before = vars(decoder).get("forward")
    decoder.forward = forward
    try:
        yield
    finally:
        if before is None:
            del decoder.forward
        else:
            decoder.forward = before


def _after(done: float, share: float, on_share: OnShare) -> OnShare:
    """`on_share` for a stage that is `share` of the work and begins when `done` of it is done."""
    return lambda part: on_share(done + share * part)


def _stages(decoder: Any) -> Iterator[tuple[list[FrameLayer], Any]]:
    """Layers that see one frame, with the block whose temporal half follows them.

    Temporal halves that add zero are left out.
    """
    layers: list[FrameLayer] = [decoder.conv_in]
    for layer in _layers(decoder):
        if not isinstance(layer, SpatioTemporalResBlock):
            layers.append(layer)
            continue
        layers.append(partial(layer.spatial_res_block, temb=None))
        if patch_name(layer.temporal_res_block) != "silent":
            yield layers, layer
            layers = []
    yield [*layers, decoder.conv_norm_out, F.silu, decoder.conv_out], None


def _sizes(stages: list[tuple[list[FrameLayer], Any]]) -> Iterator[int]:
    """Pixels at the end of each stage, as multiples of those of the latents."""
    pixels = 1
    for layers, _ in stages:
        pixels *= 4 ** sum(isinstance(layer, Upsample2D) for layer in layers)
        yield pixels


def _layers(decoder: Any) -> Iterator[Any]:
    """Layers between the first convolution and the last norm, in order of computation."""
    middle = decoder.mid_block
    yield middle.resnets[0]
    for block, attention in zip(middle.resnets[1:], middle.attentions, strict=False):
        yield from (attention, block)
    for block in decoder.up_blocks:
        yield from block.resnets
        yield from block.upsamplers or ()


def _frame_by_frame(layers: list[FrameLayer], x: Tensor, count: int, on_part: OnShare) -> Tensor:
    """`x` (frames, channels, height, width) through `layers`, in place if the shape stays."""
    out: Tensor | None = None
    for start in range(0, len(x), count):
        part = x[start : start + count]
        for layer in layers:
            part = layer(part)
        if out is None:
            out = x if part.shape[1:] == x.shape[1:] else empty_as(part, (len(x), *part.shape[1:]))
        out[start : start + count] = part
        on_part(min(start + count, len(x)) / len(x))
    assert out is not None
    return out


def _over_the_clip(layer: Any, x: Tensor) -> None:
    """Blend `x` with the temporal half of `layer`, in place."""
    block = layer.temporal_res_block
    height = max(1, ROWS_BYTES // (4 * x[:, :, :1].numel()))
    slices = [x[:, :, top : top + height] for top in range(0, x.shape[2], height)]
    first = _Norm(block.norm1, slices)

    def halfway(rows: Tensor) -> Tensor:
        return over_frames(block.conv1, F.silu(first(rows), inplace=True))

    second = _Norm(block.norm2, (_as_slice(halfway(rows), rows) for rows in slices))
    for rows in slices:
        h = over_frames(block.conv2, F.silu(second(_as_slice(halfway(rows), rows)), inplace=True))
        rows.copy_(layer.time_mixer(rows, rows + _as_slice(h, rows), None))


def _as_slice(clip: Tensor, like: Tensor) -> Tensor:
    """(1, channels, frames, places) as (frames, channels, height, width)."""
    return clip[0].transpose(0, 1).reshape(like.shape)


class _Norm:
    """A GroupNorm over all of a clip that comes in slices (frames, channels, height, width)."""

    def __init__(self, norm: Any, slices: Iterable[Tensor]) -> None:
        count, mean, spread = 0, torch.zeros(()), torch.zeros(())
        for rows in slices:  # statistics of two parts together: Chan, Golub and LeVeque, 1979
            groups = rows.float().transpose(0, 1).reshape(norm.num_groups, -1)
            variance, middle = torch.var_mean(groups, dim=1, correction=0)
            new = groups.shape[1]
            if not count:
                mean, spread = torch.zeros_like(middle), torch.zeros_like(middle)
            apart = middle - mean
            mean = mean + apart * (new / (count + new))
            spread = spread + variance * new + apart**2 * (count * new / (count + new))
            count += new
        each = norm.num_channels // norm.num_groups
        scale = (spread / count + norm.eps).rsqrt().repeat_interleave(each)
        self._mean = mean.repeat_interleave(each)[:, None, None]
        self._scale = (scale * norm.weight.float())[:, None, None]
        self._shift = norm.bias.float()[:, None, None]

    def __call__(self, rows: Tensor) -> Tensor:
        """`rows` normalized, as (1, channels, frames, places)."""
        normed = (rows.float() - self._mean) * self._scale + self._shift
        frames, channels = rows.shape[:2]
        return normed.to(rows.dtype).transpose(0, 1).reshape(1, channels, frames, -1)
