"""Part compile: UNet and decoder compiled by torch: seconds of the first call and of each later."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from svd_core.benchmarks.gpu.comparison import Compute
from svd_core.benchmarks.gpu.context import Context, Figures
from svd_core.benchmarks.gpu.decode import decode
from svd_core.benchmarks.gpu.kernel_profile import profile_kernels
from svd_core.benchmarks.gpu.random_models import latents, model, unet_inputs
from svd_core.benchmarks.gpu.step import half, one_step
from svd_core.benchmarks.gpu.timing import relative_error
from svd_core.benchmarks.gpu.variants import cudnn_benchmark, rewrite
from svd_core.engine.optimizations.torch_compile import compile_blocks, forget_blocks

LEAST_DECODER_S, LEAST_STOCK_S = 30.0, 60.0
"""Seconds that must remain for what compiles long."""


def run(context: Context) -> None:
    unet, inputs = model(context, "unet"), unet_inputs(context)
    measure_unet(context, unet, inputs)
    del unet
    forget_blocks()
    vae, clip = model(context, "vae"), latents(context)
    rewrite(vae)
    compute = partial(decode, vae, clip)
    eager = compute()
    context.case("decoder, not compiled", lambda: figures(context, compute, eager))
    compile_blocks(vae.decoder, backend(context))
    if context.case("decoder, first", partial(first, context, compute), LEAST_DECODER_S):
        context.case("decoder, compiled", lambda: figures(context, compute, eager))
    del vae, clip, eager
    forget_blocks()
    stock = model(context, "unet")
    eager = one_step(stock, inputs)
    whole = torch.compile(stock, backend=backend(context))
    compute = partial(one_step, whole, inputs)
    if context.case("stock UNet, first", partial(first, context, compute), LEAST_STOCK_S):
        context.case("stock UNet, compiled", lambda: figures(context, compute, eager))


def measure_unet(context: Context, unet: Any, inputs: tuple[Tensor, ...]) -> None:
    """Ours, block by block, as `SVD_COMPILE` has it."""
    case = context.case
    rewrite(unet)
    compute = partial(one_step, unet, inputs)
    eager = compute()
    case("UNet, not compiled", lambda: figures(context, compute, eager))
    case("UNet, blocks", lambda: {"blocks": compile_blocks(unet, backend(context))})
    if not case("UNet, first", partial(first, context, compute)):
        return
    case("UNet, compiled", lambda: figures(context, compute, eager))
    profile = partial(profile_kernels, context.timer, compute, "compiled step", context.folder)
    case("UNet, profile", profile)
    with cudnn_benchmark():
        case("UNet, compiled, cudnn.benchmark", lambda: figures(context, compute, eager))
    one = partial(half, unet, inputs, 0)
    if case("UNet, one half, first", partial(first, context, one)):
        case("UNet, one half, compiled", lambda: figures(context, one, eager[:1]))


def backend(context: Context) -> str:
    """Inductor on a GPU. On a CPU it would take minutes; tracing is what is tried there."""
    return "inductor" if context.cuda else "eager"


def first(context: Context, compute: Compute) -> Figures:
    """The call that compiles."""
    return {"first_s": round(context.timer.once(compute), 2), "backend": backend(context)}


def figures(context: Context, compute: Compute, eager: Tensor) -> Figures:
    """`error`: relative to the answer that was not compiled."""
    error = relative_error(compute(), eager)
    seconds, peak = context.timer.cost(compute)
    counters: Any = torch._dynamo.utils.counters
    breaks = sum(counters["graph_break"].values())
    return {"seconds": seconds, "peak_gib": peak, "error": error, "graph_breaks": breaks}
