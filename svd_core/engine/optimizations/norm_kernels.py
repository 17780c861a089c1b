"""Triton kernels of GroupNorm, with or without SiLU: moments in many blocks, then one pass.

Moments are accumulated in single precision. `group_norm` chooses the kernel for a memory layout.
Only torch for CUDA on Linux brings Triton, so this module is imported on demand. (Kernels have no
types that mypy knows; see pyproject.toml.)
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_SPLITS = 64
"""Blocks of one group, whose sums are added up in a kernel of their own."""

LEAST_RUN = 32768
"""Least numbers per block, below which more blocks are slower."""

CHANNELS = 64
"""Channels of one block in a channels-last layout."""


def channels_outside(norm: Any, frames: Tensor, silu: bool) -> Tensor:
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
    scale, shift = _affine(norm, sums, clips, (count, splits), count * length)
    out = torch.empty((clips, channels, count, places), device=frames.device, dtype=frames.dtype)
    block = 1024 if places >= 1024 else 256
    _apply_outside[(clips * count * channels, -(-places // block))](
        frames, out, scale, shift, channels, count, places, block=block, silu=silu
    )
    return out


def channels_inside(norm: Any, x: Tensor, silu: bool) -> Tensor:
    """Normalize contiguous (samples, places, channels), in the same layout."""
    samples, places, channels = x.shape
    each = channels // norm.num_groups
    splits = max(1, min(4 * MOST_SPLITS, places // 512))
    run = -(-places // splits)
    sums = _empty_sums(x, samples * splits, channels)
    _channel_moments[(samples, splits, -(-channels // CHANNELS))](
        x, sums, places, channels, run, splits, steps=-(-run // 32), rows=32, columns=CHANNELS
    )
    scale, shift = _affine(norm, sums, samples, (splits, each), places * each)
    out = torch.empty_like(x)
    length = places * channels
    blocks = -(-length // 1024), samples  # CUDA allows 65,535 on each axis but the first
    _apply_inside[blocks](x, out, scale, shift, channels, length, block=1024, silu=silu)
    return out


def _empty_sums(like: Tensor, rows: int, columns: int) -> Tensor:
    return torch.empty(rows, columns, 2, device=like.device, dtype=torch.float32)


def _affine(
    norm: Any, sums: Tensor, samples: int, parts: tuple[int, int], numbers: int
) -> tuple[Tensor, Tensor]:
    """Factor and summand of each channel of each sample.

    `sums`: of numbers and of squares, (samples, parts[0], groups, parts[1], 2), each group of
    `numbers` numbers in all.
    """
    shape, device = (samples, norm.num_channels), sums.device
    scale, shift = (torch.empty(shape, device=device, dtype=torch.float32) for _ in range(2))
    each = norm.num_channels // norm.num_groups
    _affine_of_group[(samples, norm.num_groups)](
        sums, norm.weight, norm.bias, scale, shift,
        norm.num_channels, norm.num_groups, parts[1], parts[0] * parts[1], 1 / numbers, norm.eps,
        each, steps=-(-parts[0] * parts[1] // 256), block=256,
        columns=triton.next_power_of_2(each),
    )  # fmt: skip
    return scale, shift


@triton.jit
def _affine_of_group(
    sums, weight, bias, scale, shift, channels, groups, inner, parts, share, eps, each,
    steps: tl.constexpr, block: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    sample, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    total = tl.zeros((block,), tl.float32)
    square = tl.zeros((block,), tl.float32)
    for step in range(steps):
        part = step * block + tl.arange(0, block)
        outer, rest = part // inner, part % inner
        place = sums + ((sample * (parts // inner) + outer) * groups + group) * inner * 2 + rest * 2
        total += tl.load(place, mask=part < parts, other=0.0)
        square += tl.load(place + 1, mask=part < parts, other=0.0)
    mean = tl.sum(total, 0) * share
    variance = tl.maximum(tl.sum(square, 0) * share - mean * mean, 0.0)
    column = tl.arange(0, columns)
    channel = group * each + column
    factor = tl.load(weight + channel, mask=column < each, other=0.0).to(tl.float32)
    factor = factor * (1.0 / tl.sqrt(variance + eps))
    summand = tl.load(bias + channel, mask=column < each, other=0.0).to(tl.float32) - mean * factor
    tl.store(scale + sample * channels + channel, factor, mask=column < each)
    tl.store(shift + sample * channels + channel, summand, mask=column < each)


@triton.jit
def _moments(x, sums, length, run, splits, steps: tl.constexpr, block: tl.constexpr):
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


@triton.jit
def _apply_outside(
    x, out, scale, shift, channels, frames, places, block: tl.constexpr, silu: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)  # clip, frame and channel
    clip, rest = row // (frames * channels), row % (frames * channels)
    frame, channel = rest // channels, rest % channels
    here = tl.program_id(1) * block + tl.arange(0, block)
    value = tl.load(x + row * places + here, mask=here < places, other=0.0).to(tl.float32)
    known = clip * channels + channel
    value = value * tl.load(scale + known) + tl.load(shift + known)
    if silu:
        value = value / (1.0 + tl.exp(-value))
    target = out + (known * frames + frame) * places + here
    tl.store(target, value.to(out.dtype.element_ty), mask=here < places)


@triton.jit
def _channel_moments(
    x, sums, places, channels, run, splits,
    steps: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
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


@triton.jit
def _apply_inside(x, out, scale, shift, channels, length, block: tl.constexpr, silu: tl.constexpr):
    sample = tl.program_id(1).to(tl.int64)
    here = tl.program_id(0) * block + tl.arange(0, block)
    inside = here < length
    value = tl.load(x + sample * length + here, mask=inside, other=0.0).to(tl.float32)
    known = sample * channels + here % channels
    value = value * tl.load(scale + known, mask=inside, other=0.0)
    value = value + tl.load(shift + known, mask=inside, other=0.0)
    if silu:
        value = value / (1.0 + tl.exp(-value))
    tl.store(out + sample * length + here, value.to(out.dtype.element_ty), mask=inside)
