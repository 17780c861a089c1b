"""Part decode: latents of 25 frames to pixels, stock, ours, in slices and in other layouts."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from svd_core.benchmarks.gpu import variants
from svd_core.benchmarks.gpu.comparison import Comparison
from svd_core.benchmarks.gpu.context import Context, Figures
from svd_core.benchmarks.gpu.random_models import latents, model
from svd_core.benchmarks.gpu.step import measure_norms
from svd_core.benchmarks.gpu.variants import rewrite
from svd_core.engine.optimizations.patching import unpatch
from svd_core.engine.optimizations.vae_decode import chunked_decode

SLICES = (8, 4, 1)
"""Frames at a time."""


def run(context: Context) -> None:
    vae, clip = model(context, "vae"), latents(context)
    compare = Comparison(context, vae, partial(decode, vae, clip))
    case, measure = context.case, compare.measure
    case("truth", partial(compare.compute_truth, partial(wider_decode, context, vae, clip)))
    case("stock, all at once", compare.measure_stock)
    case("stock, profile", partial(compare.profile, "stock decoding"))
    case("rewrites", lambda: {"layers": rewrite(vae)})
    case("ours, all at once", measure)
    case("ours, profile", partial(compare.profile, "our decoding"))
    for count in SLICES:
        sliced = partial(decode_in_slices, vae, clip, count)
        case(f"ours, {count} at a time", partial(measure, compute=sliced))
    measure_norms(compare, variants.channels_last)
    case("ours, cudnn.benchmark", partial(measure, variants.cudnn_benchmark))
    case("ours, channels last", partial(measure, variants.channels_last, exact=False))
    rewrite(vae, also=("upsample",))
    case("ours, upsample folded", measure)
    rewrite(vae)
    if context.cuda:
        case("ours, expandable segments", partial(measure, variants.expandable_segments))
    unpatch(vae)
    chunks = partial(decode_in_chunks, vae, clip, 8)
    case("stock, chunks of 8 (other pixels)", partial(measure, compute=chunks, exact=False))
    case("encode", partial(encode, context, vae, clip))


def decode(vae: Any, clip: Tensor) -> Tensor:
    pixels: Tensor = vae.decode(clip, num_frames=len(clip)).sample
    return pixels


def decode_in_slices(vae: Any, clip: Tensor, count: int) -> Tensor:
    """`count` frames at a time, with the pixels of all at once."""
    with chunked_decode(vae.decoder, count, lambda _: None):
        return decode(vae, clip)


def decode_in_chunks(vae: Any, clip: Tensor, count: int) -> Tensor:
    """As stock saves memory: each chunk is a clip of its own, with other pixels."""
    return torch.cat([decode(vae, chunk) for chunk in torch.split(clip, count)])


def wider_decode(context: Context, vae: Any, clip: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels in `dtype` by the same weights, a frame at a time: all at once would take over 60 GB
    in float32."""
    wider = model(context, "vae", dtype)
    wider.load_state_dict(vae.state_dict())
    rewrite(wider)
    return decode_in_slices(wider, clip.to(dtype), 1)


def encode(context: Context, vae: Any, clip: Tensor) -> Figures:
    """`single_s`: in float32, in which a photo is encoded; `half_s`: in the decoder's precision."""
    height, width = clip.shape[2:]
    image = context.randn(1, 3, 8 * height, 8 * width)
    half_s = context.timer.seconds(lambda: vae.encode(image), times=3)
    vae.float()
    image = image.float()
    return {"half_s": half_s, "single_s": context.timer.seconds(lambda: vae.encode(image), times=3)}
