"""Variants of the pipeline that are compared, and how each is prepared."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

from svd_core.benchmarks.random_models import twin
from svd_core.checkpoints.memory_plan import MemoryPlan
from svd_core.checkpoints.speed_modes import GUIDED_SIGMAS
from svd_core.engine.optimizations.guidance import Guidance
from svd_core.engine.optimizations.registry import apply_optimizations, optimizations_for
from svd_core.engine.optimizations.schedulers import sigma_range
from svd_core.engine.optimizations.torch_compile import can_compile, compile_blocks
from svd_core.engine.pipeline_loader import place
from svd_core.params import Speed

STOCK = "stock"
COMPILED = "stock, compiled"
OURS = "ours"


@dataclass(frozen=True)
class Variant:
    """A variant of the pipeline. `prepare`: returns the pipeline, ready to run.

    `our_decoding`: latents are decoded by our code, outside of the pipeline. `speed`: speeds other
    than exact change the picture and need not agree with stock. `compiled`: the first clip
    compiles, which takes minutes.
    """

    name: str
    prepare: Callable[[], Any]
    our_decoding: bool = False
    speed: Speed = "exact"
    compiled: bool = False


def prepare_stock(stock: Any, plan: MemoryPlan) -> None:
    """Move a stock pipeline to the plan's device and precisions, without other changes."""
    if plan.dtype == "bfloat16":  # only with `single_unet`, so only the decoder is converted
        stock.vae.decoder.to(torch.bfloat16)
    stock.to(plan.target)


def make_variants(
    stock: Any, plan: MemoryPlan, each: bool, compiled: bool
) -> tuple[list[Variant], list[str]]:
    """Variants that can run on this machine, and a sentence for each that cannot.

    Nothing is built before the first `prepare`, so a variant that cannot be built fails alone.
    """
    ours = cache(partial(_ours, stock, plan))

    def with_optimizations(names: list[str]) -> Any:
        apply_optimizations(ours(), names)
        return ours()

    @cache
    def stock_compiled() -> Any:
        other = copy(stock)
        other.unet = torch.compile(stock.unet)
        return other

    names = optimizations_for(plan)
    optimized = partial(with_optimizations, names)
    variants = [Variant(STOCK, lambda: stock), Variant(OURS, optimized, our_decoding=True)]
    absent = []
    if compiled and not can_compile():
        absent.append("No variant is compiled: there is no C++ compiler (g++) here.")
    elif compiled:
        in_blocks = partial(ours, compiled=True)
        variants.append(Variant(COMPILED, stock_compiled, compiled=True))
        variants.append(Variant(f"{OURS}, compiled", in_blocks, our_decoding=True, compiled=True))
    if sigma_range(stock.scheduler)[0] < GUIDED_SIGMAS[0]:
        variants.append(Variant(f"{OURS}, fast", optimized, our_decoding=True, speed="fast"))
    if each:
        variants += [Variant(f"only {name}", partial(with_optimizations, [name])) for name in names]
    return variants, absent


def _ours(stock: Any, plan: MemoryPlan, compiled: bool = False) -> Any:
    """Our pipeline with the same weights."""
    ours = twin(stock)
    ours.unet.forward = Guidance(ours.unet.forward)
    place(ours, plan)
    if compiled:
        compile_blocks(ours.unet, strict=True)  # without a fallback to eager code
    return ours
