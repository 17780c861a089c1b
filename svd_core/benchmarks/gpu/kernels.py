"""Part kernels: attention, norms, convolutions and products alone, at SVD-XT's shapes."""

import time
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.benchmarks.gpu.context import Context, Figures
from svd_core.benchmarks.gpu.timing import Work, relative_error
from svd_core.benchmarks.vs_diffusers.parity import MAX_ERROR_RATIO
from svd_core.engine.optimizations.attention_probe import STOCK as STOCK_ATTENTION
from svd_core.engine.optimizations.attention_probe import attend, flash_implementations
from svd_core.engine.optimizations.group_norm import NORMS
from svd_core.engine.optimizations.group_norm import STOCK as STOCK_NORM
from svd_core.engine.optimizations.kernels import choose_kernels
from svd_core.engine.optimizations.probe import cudnn_flag

BACKENDS = ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH")

MOST_SCORES = 2 * 2**30
"""Attention scores up to which they are materialized; flash kernels never do."""

WIDTH = 64
"""Channels of a head."""

# Name, samples, heads, tokens: 50 samples are both halves of 25 frames.
ATTENTION = (
    ("outer level", 50, 5, 9216),
    ("temporal, outer level", 18432, 5, 25),
    ("second level", 50, 10, 2304),
    ("third level", 50, 20, 576),
    ("outer level, one half", 25, 5, 9216),
    ("temporal, second level", 4608, 10, 25),
)

# Name, clips, channels, frames, height, width.
LEVELS = (
    ("UNet, outer level", 2, 320, 25, 72, 128),
    ("VAE, outer level", 1, 128, 25, 576, 1024),
    ("UNet, second level", 2, 640, 25, 36, 64),
    ("UNet, third level", 2, 1280, 25, 18, 32),
    ("VAE, third level", 1, 256, 25, 288, 512),
    ("UNet, outer level, one half", 1, 320, 25, 72, 128),
)

# Name, tokens, channels; the feed-forward is eight times as wide.
PRODUCTS = (
    ("outer level", 460800, 320),
    ("second level", 115200, 640),
    ("third level", 28800, 1280),
)

SMALL = 64
"""Divisor of pixels, tokens and samples with `--tiny`."""


def run_kernels(context: Context) -> None:
    context.case("choices", partial(choices, context))
    for kind, measure, shapes in (
        ("attention", attention, ATTENTION),
        ("norm", norm, LEVELS),
        ("convolution", convolution, LEVELS[:-1]),
        ("over frames", over_frames, (LEVELS[0], LEVELS[1], LEVELS[3])),
        ("upsample", upsample, (("VAE",),)),
        ("product", product, PRODUCTS),
    ):
        run: Any = measure
        for name, *shape in shapes:
            context.case(f"{kind}, {name}", partial(run, context, *shape))


def choices(context: Context) -> Figures:
    """Probe this GPU as the engine does when a model is placed."""
    begin = time.perf_counter()
    device, dtype = f"{context.device}:0", str(context.dtype).removeprefix("torch.")
    kernels = choose_kernels(device, dtype, context.folder)
    return {"probe_s": round(time.perf_counter() - begin, 2), "kernels": str(kernels)}


def attention(context: Context, samples: int, heads: int, tokens: int) -> Figures:
    """Measure each attention backend, and its error against float32 at the first and last sample.

    `unavailable`: the error of a backend that does not support it.
    """
    samples, tokens = _small(context, samples), _small(context, tokens)
    joined = context.randn(samples, tokens, 3, heads, WIDTH)
    q, k, v = joined.permute(2, 0, 3, 1, 4)
    ends = [0, samples - 1]
    first, other, value = (x[ends].float() for x in (q, k, v))
    truth = torch.softmax(first @ other.mT / WIDTH**0.5, -1) @ value
    operations = 4 * samples * heads * tokens**2 * WIDTH

    def measure(name: str) -> Figures:
        work = partial(attend, name, q, k, v)
        error = relative_error(work()[ends].float(), truth)
        return _rate(context, work, operations) | {"error": error}

    row: dict[str, object] = {"default": measure(STOCK_ATTENTION)}
    for name in (*BACKENDS, *flash_implementations()):
        if name == "MATH" and samples * heads * tokens**2 > MOST_SCORES:
            continue
        try:
            row[name] = measure(name)
        except (RuntimeError, ImportError) as error:
            row[name] = {"unavailable": str(error)[:120]}
    return row


def norm(
    context: Context, clips: int, channels: int, frames: int, height: int, width: int
) -> Figures:
    """Measure GroupNorm and SiLU of a clip in each memory layout."""
    pixels = _small(context, height * width)
    layer = nn.GroupNorm(32, channels, device=context.device, dtype=context.dtype)
    x = context.randn(clips, channels, frames, pixels)
    orders = {
        "frames": x.transpose(1, 2).contiguous().transpose(1, 2),
        "channels": x,
        "channels last": x.contiguous(memory_format=torch.channels_last),
    }
    candidates = {name: norm for name, norm in NORMS.items() if context.cuda or name != "triton"}
    part = x[:1].float()
    truth = F.silu(F.group_norm(part, 32, layer.weight.float(), layer.bias.float(), layer.eps))
    row: dict[str, object] = {"gb": round(x.nbytes / 1e9, 3)}
    errors: dict[str, float] = {}
    for order, clip in orders.items():
        for name, clip_norm in candidates.items():
            error = relative_error(clip_norm(layer, clip)[:1], truth)
            ms = _ms(context, partial(clip_norm, layer, clip))
            row[f"{name}, {order}"] = {"ms": ms, "error": error}
            errors[name] = max(error, errors.get(name, 0.0))
    if "triton" in errors:
        row["ok"] = errors["triton"] <= MAX_ERROR_RATIO * errors[STOCK_NORM]
    return row


def convolution(
    context: Context, clips: int, channels: int, frames: int, height: int, width: int
) -> Figures:
    """Measure a 3x3 convolution in both layouts, with cuDNN's heuristic and its benchmark."""
    height, width = (max(4, side // 8) if context.tiny else side for side in (height, width))
    count = _small(context, clips * frames)
    operations = 18 * count * channels**2 * height * width
    row: dict[str, object] = {}
    for name, order in (("NCHW", torch.contiguous_format), ("NHWC", torch.channels_last)):
        layer: Any = nn.Conv2d(channels, channels, 3, padding=1)
        layer = layer.to(context.device, context.dtype).to(memory_format=order)
        x = context.randn(count, channels, height, width).contiguous(memory_format=order)
        row[name] = _rate(context, partial(layer, x), operations)
        with cudnn_flag("benchmark", True):
            row[f"{name}, cudnn.benchmark"] = _rate(context, partial(layer, x), operations)
    return row


def over_frames(
    context: Context, clips: int, channels: int, frames: int, height: int, width: int
) -> Figures:
    """Measure a 3x1x1 convolution, also as a flat convolution in both layouts."""
    pixels = _small(context, height * width)
    layer = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
    layer = layer.to(context.device, context.dtype)
    weight, bias = layer.weight[..., 0], layer.bias
    inside = weight.contiguous(memory_format=torch.channels_last)
    x = context.randn(clips, channels, frames, pixels)
    last = x.contiguous(memory_format=torch.channels_last)
    operations = 6 * clips * channels**2 * frames * pixels
    works: dict[str, Work] = {
        "conv3d": lambda: layer(x[..., None]),
        "conv2d": lambda: F.conv2d(x, weight, bias, padding=(1, 0)),
        "conv2d, NHWC": lambda: F.conv2d(last, inside, bias, padding=(1, 0)),
    }
    return {name: _rate(context, work, operations) for name, work in works.items()}


def upsample(context: Context) -> Figures:
    """Measure upsampling with a convolution, and as one transposed 4x4 convolution."""
    count, channels, height, width = (4, 32, 9, 16) if context.tiny else (25, 256, 288, 512)
    x = context.randn(count, channels, height, width)
    plain: Any = nn.Conv2d(channels, channels, 3, padding=1)
    transposed: Any = nn.ConvTranspose2d(channels, channels, 4, 2, 1)
    plain, transposed = (layer.to(x.device, x.dtype) for layer in (plain, transposed))
    return {
        "stock_ms": _ms(context, lambda: plain(F.interpolate(x, scale_factor=2.0))),
        "transposed_ms": _ms(context, lambda: transposed(x)),
    }


def product(context: Context, tokens: int, channels: int) -> Figures:
    """Measure the first product of the feed-forward, its GEGLU, and the product in 8 bits."""
    tokens = _small(context, tokens)
    x, weight = context.randn(tokens, channels), context.randn(8 * channels, channels)
    operations = 16 * tokens * channels**2
    hidden = F.linear(x, weight)
    row: dict[str, object] = {
        "half": _rate(context, lambda: F.linear(x, weight), operations),
        "geglu_ms": _ms(
            context, lambda: hidden[:, : 4 * channels] * F.gelu(hidden[:, 4 * channels :])
        ),
    }
    if context.cuda:
        try:
            row["float8"] = _float8(context, x, weight, operations)
        except RuntimeError as error:  # before Ada there is none
            row["float8"] = {"unavailable": str(error)[:120]}
    return row


def _float8(context: Context, x: Tensor, weight: Tensor, operations: int) -> Figures:
    eights = x.to(torch.float8_e4m3fn), weight.to(torch.float8_e4m3fn).t()
    scale = torch.ones((), device=context.device)
    multiply = partial(torch._scaled_mm, *eights, scale, scale, out_dtype=torch.bfloat16)
    cast_ms = _ms(context, lambda: x.to(torch.float8_e4m3fn))
    return _rate(context, multiply, operations) | {"cast_ms": cast_ms}


def _small(context: Context, number: int) -> int:
    return max(2, number // SMALL) if context.tiny else number


def _ms(context: Context, work: Work) -> float:
    return round(1e3 * _seconds(context, work), 4)


def _rate(context: Context, work: Work, operations: int) -> dict[str, object]:
    """Milliseconds and TFLOPS; a multiply-add counts as two operations."""
    seconds = _seconds(context, work)
    return {"ms": round(1e3 * seconds, 4), "tflops": round(operations / seconds / 1e12, 2)}


def _seconds(context: Context, work: Work) -> float:
    return context.timer.seconds(work, budget_s=0.01 if context.tiny else 0.2)
