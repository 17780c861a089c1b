"""Parts step, decode and compile: UNet and decoder of SVD-XT alone, stock, ours and compiled."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from svd_core.benchmarks.gpu.comparison import (
    Comparison,
    Compute,
    attention_by,
    channels_last,
    cudnn_algorithms,
    expandable_segments,
    fp16_accumulation,
    rewrite,
)
from svd_core.benchmarks.gpu.context import Context, Figures, latents, model, unet_inputs
from svd_core.benchmarks.gpu.timing import profile_kernels, relative_error
from svd_core.engine.optimizations.patching import unpatch
from svd_core.engine.optimizations.torch_compile import compile_blocks, forget_blocks
from svd_core.engine.optimizations.vae_decode import chunked_decode

Inputs = tuple[Tensor, ...]

ORDERS: Mapping[str, tuple[SDPBackend, ...]] = {
    "cuDNN": (SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH),
    "flash": (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH),
    "efficient": (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH),
}
"""Attention backends in order; later ones run what the first does not support."""


def run_step(context: Context) -> None:
    unet, inputs = model(context, "unet"), unet_inputs(context)
    compare = Comparison(context, unet, partial(one_step, unet, inputs))
    case, measure = context.case, compare.measure
    compare.measure_both(partial(wider_step, context, unet, inputs), "", "step")
    measure_norms(compare)
    tried, last = cudnn_algorithms, channels_last
    case("ours, cudnn.benchmark", partial(measure, tried))
    for name, order in ORDERS.items():
        case(f"ours, attention by {name}", partial(measure, attention_by(*order)))
    case("ours, two halves", partial(measure, compute=partial(two_halves, unet, inputs)))
    case("ours, one half", partial(measure, compute=partial(half_step, unet, inputs, 0)))
    case("ours, channels last", partial(measure, last, exact=False))
    case("ours, channels last, cudnn.benchmark", partial(measure, last, tried, exact=False))
    case("ours, fp16 accumulation", partial(measure, fp16_accumulation, exact=False))
    rewrite(unet, also=("upsample",))
    case("ours, upsample folded", measure)
    for name in [name for name, count in rewrite(unet).items() if count]:
        rewrite(unet, without=(name,))
        case(f"ours without {name}", measure)
    unpatch(unet)
    case("stock, cudnn.benchmark", partial(measure, tried))


def one_step(unet: Any, inputs: Inputs) -> Tensor:
    out: Tensor = unet(*inputs, return_dict=False)[0]
    return out


def half_step(unet: Any, inputs: Inputs, index: int) -> Tensor:
    """One half of a guided step, which is also a step without guidance."""
    latents, timestep, embedding, ids = inputs
    one = slice(index, index + 1)
    return one_step(unet, (latents[one], timestep, embedding[one], ids[one]))


def two_halves(unet: Any, inputs: Inputs) -> Tensor:
    return torch.cat([half_step(unet, inputs, index) for index in (0, 1)])


def wider_step(context: Context, unet: Any, inputs: Inputs, dtype: torch.dtype) -> Tensor:
    """A step of stock with the same weights in `dtype`."""
    wider = model(context, "unet", dtype)
    wider.load_state_dict(unet.state_dict())
    return one_step(wider, tuple(x.to(dtype) if x.dim() else x for x in inputs))


# Part decode


SLICES = (8, 4, 1)
"""Frames at a time."""


def run_decode(context: Context) -> None:
    vae, clip = model(context, "vae"), latents(context)
    compare = Comparison(context, vae, partial(decode, vae, clip))
    case, measure = context.case, compare.measure
    compare.measure_both(partial(wider_decode, context, vae, clip), ", all at once", "decoding")
    for count in SLICES:
        sliced = partial(decode_in_slices, vae, clip, count)
        case(f"ours, {count} at a time", partial(measure, compute=sliced))
    measure_norms(compare)
    case("ours, cudnn.benchmark", partial(measure, cudnn_algorithms))
    case("ours, channels last", partial(measure, channels_last, exact=False))
    rewrite(vae, also=("upsample",))
    case("ours, upsample folded", measure)
    rewrite(vae)
    if context.cuda:
        case("ours, expandable segments", partial(measure, expandable_segments))
    unpatch(vae)
    chunks = partial(decode_in_chunks, vae, clip, 8)
    case("stock, chunks of 8 (other pixels)", partial(measure, compute=chunks, exact=False))
    case("encode", partial(measure_encode, context, vae, clip))


def decode(vae: Any, clip: Tensor) -> Tensor:
    pixels: Tensor = vae.decode(clip, num_frames=len(clip)).sample
    return pixels


def decode_in_slices(vae: Any, clip: Tensor, count: int) -> Tensor:
    """Decode `count` frames at a time; pixels are those of decoding all at once."""
    with chunked_decode(vae.decoder, count, lambda _: None):
        return decode(vae, clip)


def decode_in_chunks(vae: Any, clip: Tensor, count: int) -> Tensor:
    """Decode in chunks as stock does: each is a separate clip, so pixels differ."""
    return torch.cat([decode(vae, chunk) for chunk in torch.split(clip, count)])


def wider_decode(context: Context, vae: Any, clip: Tensor, dtype: torch.dtype) -> Tensor:
    """Decode with the same weights in `dtype`, a frame at a time: all at once would take over 60 GB
    in float32."""
    wider = model(context, "vae", dtype)
    wider.load_state_dict(vae.state_dict())
    rewrite(wider)
    return decode_in_slices(wider, clip.to(dtype), 1)


def measure_encode(context: Context, vae: Any, clip: Tensor) -> Figures:
    """Time the encoder in float32, which encodes photos, and in the decoder's precision."""
    height, width = clip.shape[2:]
    image = context.randn(1, 3, 8 * height, 8 * width)
    half_s = context.timer.seconds(lambda: vae.encode(image))
    vae.float()
    image = image.float()
    return {"half_s": half_s, "single_s": context.timer.seconds(lambda: vae.encode(image))}


# Part compile


LEAST_DECODER_S, LEAST_STOCK_S = 30.0, 60.0
"""Seconds that must remain for cases with a long compilation."""


def run_compile(context: Context) -> None:
    """Compile our UNet block by block, as `SVD_COMPILE` does, the decoder too, and stock's UNet."""
    for compile_model in (compile_unet, compile_decoder, compile_stock):
        compile_model(context)
        forget_blocks()


def compile_unet(context: Context) -> None:
    case, unet, inputs = context.case, model(context, "unet"), unet_inputs(context)
    rewrite(unet)
    compute = partial(one_step, unet, inputs)
    eager = compute()
    measure = partial(measure_compiled, context, compute, eager)
    case("UNet, not compiled", measure)
    case("UNet, blocks", lambda: {"blocks": compile_blocks(unet, backend=backend(context))})
    if not measure_compilation(context, "UNet", compute, eager):
        return
    profile = partial(profile_kernels, context.timer, compute, "compiled step", context.folder)
    case("UNet, profile", profile)
    with cudnn_algorithms():
        case("UNet, compiled, cudnn.benchmark", measure)
    half = partial(half_step, unet, inputs, 0)
    measure_compilation(context, "UNet, one half", half, eager[:1])


def compile_decoder(context: Context) -> None:
    vae, clip = model(context, "vae"), latents(context)
    rewrite(vae)
    compute = partial(decode, vae, clip)
    eager = compute()
    context.case("decoder, not compiled", partial(measure_compiled, context, compute, eager))
    compile_blocks(vae.decoder, backend=backend(context))
    measure_compilation(context, "decoder", compute, eager, LEAST_DECODER_S)


def compile_stock(context: Context) -> None:
    stock, inputs = model(context, "unet"), unet_inputs(context)
    eager = one_step(stock, inputs)
    whole = torch.compile(stock, backend=backend(context))
    compute = partial(one_step, whole, inputs)
    measure_compilation(context, "stock UNet", compute, eager, LEAST_STOCK_S)


def measure_compilation(
    context: Context, name: str, compute: Compute, eager: Tensor, least_s: float = 0.0
) -> bool:
    """Time the first call, which compiles, and measure the next. Returns whether it compiled.

    `eager`: output without compilation. `least_s`: it is skipped if fewer seconds remain.
    """
    first = context.case(f"{name}, first", partial(measure_first_call, context, compute), least_s)
    if first:
        measure = partial(measure_compiled, context, compute, eager)
        context.case(f"{name}, compiled", measure)
    return first


def backend(context: Context) -> str:
    """Compiler backend: Inductor on a GPU; on a CPU, where it takes minutes, tracing alone."""
    return "inductor" if context.cuda else "eager"


def measure_first_call(context: Context, compute: Compute) -> Figures:
    """Time the first call, which compiles."""
    return {"first_s": round(context.timer.once(compute), 2), "backend": backend(context)}


def measure_compiled(context: Context, compute: Compute, eager: Tensor) -> Figures:
    """Measure compiled work. `error`: relative to the output without compilation."""
    error = relative_error(compute(), eager)
    seconds, peak = context.timer.cost(compute)
    counters: Any = torch._dynamo.utils.counters
    breaks = sum(counters["graph_break"].values())
    return {"seconds": seconds, "peak_gib": peak, "error": error, "graph_breaks": breaks}


# Both models


def measure_norms(compare: Comparison) -> None:
    """Measure residual blocks with candidates for GroupNorm and SiLU, also channels last."""
    context, measure, model = compare.context, compare.measure, compare.model
    rewrite(model, norm="framewise")
    context.case("ours, framewise norms", measure)
    if context.cuda:
        name, last = "ours, Triton norms", channels_last
        rewrite(model, norm="triton")
        context.case(name, measure)
        context.case(f"{name}, profile", partial(compare.profile, name))
        context.case(f"{name}, channels last", partial(measure, last))
        tried = partial(measure, last, cudnn_algorithms)
        context.case(f"{name}, channels last, cudnn.benchmark", tried)
        rewrite(model, also=("upsample",), norm="triton")
        context.case(f"{name}, upsample folded, channels last", partial(measure, last))
    rewrite(model)
