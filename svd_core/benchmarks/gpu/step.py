"""Part step: one guided UNet step of SVD-XT, stock, ours, and ours with one thing changed."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from svd_core.benchmarks.gpu import variants
from svd_core.benchmarks.gpu.comparison import Comparison
from svd_core.benchmarks.gpu.context import Context, Figures
from svd_core.benchmarks.gpu.norms import (
    NormSilu,
    framewise_norm_silu,
    triton_norm_silu,
    with_norms,
)
from svd_core.benchmarks.gpu.random_models import model, unet_inputs
from svd_core.benchmarks.gpu.variants import rewrite
from svd_core.engine.optimizations.patching import unpatch

Inputs = tuple[Tensor, ...]

ORDERS: Mapping[str, tuple[SDPBackend, ...]] = {
    "cuDNN": (SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH),
    "flash": (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH),
    "efficient": (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH),
}
"""Backends of attention; those behind the first take what it cannot."""


def run(context: Context) -> None:
    unet, inputs = model(context, "unet"), unet_inputs(context)
    compare = Comparison(context, unet, partial(one_step, unet, inputs))
    case, measure = context.case, compare.measure
    case("truth", partial(compare.compute_truth, partial(wider_step, context, unet, inputs)))
    case("stock", compare.measure_stock)
    case("stock, profile", partial(compare.profile, "stock step"))
    case("rewrites", lambda: {"layers": rewrite(unet)})
    case("ours", measure)
    case("ours, profile", partial(compare.profile, "our step"))
    measure_norms(compare, variants.channels_last)
    tried, last = variants.cudnn_benchmark, variants.channels_last
    case("ours, cudnn.benchmark", partial(measure, tried))
    for name, order in ORDERS.items():
        case(f"ours, attention by {name}", partial(measure, variants.attention_by(*order)))
    case("ours, two halves", partial(measure, compute=partial(two_halves, unet, inputs)))
    case("ours, one half", partial(measure, compute=partial(half, unet, inputs, 0)))
    case("ours, channels last", partial(measure, last, exact=False))
    case("ours, channels last, cudnn.benchmark", partial(measure, last, tried, exact=False))
    case("ours, fp16 accumulation", partial(measure, variants.fp16_accumulation, exact=False))
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


def half(unet: Any, inputs: Inputs, index: int) -> Tensor:
    """One half of a guided step, which is also a step without guidance."""
    latents, timestep, embedding, ids = inputs
    one = slice(index, index + 1)
    return one_step(unet, (latents[one], timestep, embedding[one], ids[one]))


def two_halves(unet: Any, inputs: Inputs) -> Tensor:
    return torch.cat([half(unet, inputs, index) for index in (0, 1)])


def wider_step(context: Context, unet: Any, inputs: Inputs, dtype: torch.dtype) -> Tensor:
    """A step of the same weights, stock, in `dtype`."""
    wider = model(context, "unet", dtype)
    wider.load_state_dict(unet.state_dict())
    return one_step(wider, tuple(x.to(dtype) if x.dim() else x for x in inputs))


def measure_norms(compare: Comparison, *layout: variants.Setting) -> None:
    """Residual blocks with candidates for GroupNorm and SiLU, also in `layout`."""
    context, measure = compare.context, compare.measure
    put = partial(_put_norms, compare.model)
    if context.case("framewise norms, put on", partial(put, lambda: framewise_norm_silu)):
        context.case("ours, framewise norms", measure)
    if context.cuda and context.case("Triton norms, put on", partial(put, triton_norm_silu)):
        name = "ours, Triton norms"
        context.case(name, measure)
        context.case(f"{name}, profile", partial(compare.profile, name))
        context.case(f"{name}, channels last", partial(measure, *layout))
        context.case(
            f"{name}, channels last, cudnn.benchmark",
            partial(measure, *layout, variants.cudnn_benchmark),
        )
        context.case(
            f"{name}, upsample folded, put on", partial(put, triton_norm_silu, ("upsample",))
        )
        context.case(f"{name}, upsample folded, channels last", partial(measure, *layout))
    rewrite(compare.model)


def _put_norms(
    model: Any, norm_silu: Callable[[], NormSilu], also: tuple[str, ...] = ()
) -> Figures:
    return {"layers": rewrite(model, first=with_norms(norm_silu()), also=also)}
