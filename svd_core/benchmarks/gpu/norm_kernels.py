"""Triton kernels of GroupNorm and SiLU: moments in many blocks, then one pass that applies them.

Moments are accumulated in single precision. Triton comes with torch for CUDA on Linux only, so this
module is imported on demand.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_SPLITS = 64
"""Blocks of one group; torch adds up their sums."""

LEAST_RUN = 32768
"""Least numbers per block, below which more blocks are slower."""

CHANNELS = 64
"""Channels of one block in a channels-last layout."""


def channels_outside(norm: Any, frames: Tensor) -> Tensor:
    """Normalize contiguous (clips, frames, channels, places), as (clips, channels, frames, places).

    The result is contiguous too, in the layout that a convolution over frames reads.
    """
    clips, count, channels, places = frames.shape
    groups = norm.num_groups
    length = channels // groups * places
    splits = max(1, min(MOST_SPLITS, length // LEAST_RUN))
    run = -(-length // splits)
    sums = _empty_sums(frames, clips * count * groups, splits)
    _moments[(clips * count * groups, splits)](
        frames, sums, length, run, splits, steps=-(-run // 2048), block=2048
    )
    moments = sums.view(clips, count, groups, splits, 2).sum((1, 3)) / (count * length)
    scale, shift = _affine(norm, moments)
    out = torch.empty((clips, channels, count, places), device=frames.device, dtype=frames.dtype)
    block = 1024 if places >= 1024 else 256
    _apply_outside[(clips * count * channels, -(-places // block))](
        frames, out, scale, shift, channels, count, places, block=block
    )
    return out


def channels_inside(norm: Any, x: Tensor) -> Tensor:
    """Normalize contiguous (samples, places, channels), in the same layout."""
    samples, places, channels = x.shape
    groups = norm.num_groups
    splits = max(1, min(4 * MOST_SPLITS, places // 512))
    run = -(-places // splits)
    sums = _empty_sums(x, samples * splits, channels)
    _channel_moments[(samples, splits, -(-channels // CHANNELS))](
        x, sums, places, channels, run, splits, steps=-(-run // 32), rows=32, columns=CHANNELS
    )
    each = channels // groups
    moments = sums.view(samples, splits, groups, each, 2).sum((1, 3)) / (places * each)
    scale, shift = _affine(norm, moments)
    out = torch.empty_like(x)
    length = places * channels
    blocks = -(-length // 1024), samples  # CUDA allows 65,535 on each axis but the first
    _apply_inside[blocks](x, out, scale, shift, channels, length, block=1024)
    return out


def _empty_sums(like: Tensor, rows: int, columns: int) -> Tensor:
    return torch.empty(rows, columns, 2, device=like.device, dtype=torch.float32)


def _affine(norm: Any, moments: Tensor) -> tuple[Tensor, Tensor]:
    """Factor and summand of each channel, from mean and mean square of each group."""
    each = norm.num_channels // norm.num_groups
    mean = moments[..., 0]
    variance = (moments[..., 1] - mean.square()).clamp(min=0)
    scale = (variance + norm.eps).rsqrt().repeat_interleave(each, 1) * norm.weight.float()
    shift = norm.bias.float() - mean.repeat_interleave(each, 1) * scale
    return scale, shift


@triton.jit  # type: ignore[untyped-decorator]
def _moments(  # type: ignore[no-untyped-def]
    x,
    sums,
    length,
    run,
    splits,
    steps: tl.constexpr,
    block: tl.constexpr,
):
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    total = tl.zeros((block,), tl.float32)
    square = tl.zeros((block,), tl.float32)
    for step in range(steps):
        at = step * block + tl.arange(0, block)
        here = part * run + at
        inside = (at < run) & (here < length)
        value = tl.load(x + row * length + here, mask=inside, other=0.0).to(tl.float32)
        total += value
        square += value * value
    place = sums + (row * splits + part) * 2
    tl.store(place, tl.sum(total, 0))
    tl.store(place + 1, tl.sum(square, 0))


@triton.jit  # type: ignore[untyped-decorator]
def _apply_outside(  # type: ignore[no-untyped-def]
    x,
    out,
    scale,
    shift,
    channels,
    frames,
    places,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)  # clip, frame and channel
    clip, rest = row // (frames * channels), row % (frames * channels)
    frame, channel = rest // channels, rest % channels
    here = tl.program_id(1) * block + tl.arange(0, block)
    value = tl.load(x + row * places + here, mask=here < places, other=0.0).to(tl.float32)
    known = clip * channels + channel
    value = value * tl.load(scale + known) + tl.load(shift + known)
    value = value / (1.0 + tl.exp(-value))
    target = out + (known * frames + frame) * places + here
    tl.store(target, value.to(out.dtype.element_ty), mask=here < places)


@triton.jit  # type: ignore[untyped-decorator]
def _channel_moments(  # type: ignore[no-untyped-def]
    x,
    sums,
    places,
    channels,
    run,
    splits,
    steps: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
):
    sample, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.program_id(2) * columns + tl.arange(0, columns)
    total = tl.zeros((columns,), tl.float32)
    square = tl.zeros((columns,), tl.float32)
    for step in range(steps):
        at = step * rows + tl.arange(0, rows)
        here = part * run + at
        valid = (at < run) & (here < places)
        inside = valid[:, None] & (channel < channels)[None, :]
        target = x + (sample * places + here[:, None]) * channels + channel[None, :]
        value = tl.load(target, mask=inside, other=0.0).to(tl.float32)
        total += tl.sum(value, 0)
        square += tl.sum(value * value, 0)
    place = sums + ((sample * splits + part) * channels + channel) * 2
    tl.store(place, total, mask=channel < channels)
    tl.store(place + 1, square, mask=channel < channels)


@triton.jit  # type: ignore[untyped-decorator]
def _apply_inside(  # type: ignore[no-untyped-def]
    x,
    out,
    scale,
    shift,
    channels,
    length,
    block: tl.constexpr,
):
    sample = tl.program_id(1).to(tl.int64)
    here = tl.program_id(0) * block + tl.arange(0, block)
    inside = here < length
    value = tl.load(x + sample * length + here, mask=inside, other=0.0).to(tl.float32)
    known = sample * channels + here % channels
    value = value * tl.load(scale + known, mask=inside, other=0.0)
    value = value + tl.load(shift + known, mask=inside, other=0.0)
    value = value / (1.0 + tl.exp(-value))
    tl.store(out + sample * length + here, value.to(out.dtype.element_ty), mask=inside)
