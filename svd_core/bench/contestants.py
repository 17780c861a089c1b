"""Who takes part in a contest, and how each gets ready for its turn."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch

from svd_core.bench.weights import twin
from svd_core.fast.compiled import can_compile, compile_blocks
from svd_core.fast.exact import paying, quicken
from svd_core.fast.guidance import Guidance
from svd_core.fast.samplers import levels
from svd_core.loading import place
from svd_core.memory import MemoryPlan
from svd_core.params import Speed
from svd_core.speed import GUIDED

STOCK = "stock"
COMPILED = "stock, compiled"
OURS = "ours"


@dataclass(frozen=True)
class Contestant:
    """`prepare`: gives the pipeline, made ready. `our_decoding`: from latents to pictures by our
    code, which stock's pipeline has no place for. `speed`: other than exact it changes the picture
    and need not agree with stock."""

    name: str
    prepare: Callable[[], Any]
    our_decoding: bool = False
    speed: Speed = "exact"


def settle(stock: Any, plan: MemoryPlan) -> None:
    """Bring a stock pipeline to the plan's device and precisions, and change nothing else."""
    if plan.dtype == "bfloat16":  # only with `single_unet`: the decoder is all there is to convert
        stock.vae.decoder.to(torch.bfloat16)
    stock.to(plan.device)


def contestants(
    stock: Any, plan: MemoryPlan, each: bool, compiled: bool
) -> tuple[list[Contestant], list[str]]:
    """All who can take part here, and a sentence for each who cannot."""
    ours = _ours(stock, plan)
    fast = paying(plan)

    def ready(names: list[str]) -> Callable[[], Any]:
        def prepare() -> Any:
            quicken(ours, names)
            return ours

        return prepare

    found = [Contestant(STOCK, lambda: stock), Contestant(OURS, ready(fast), our_decoding=True)]
    absent = []
    if compiled and not can_compile():
        absent.append("Nobody takes part compiled: there is no C++ compiler (g++) here.")
    elif compiled:
        other = copy(stock)
        other.unet = torch.compile(stock.unet)
        found.insert(1, Contestant(COMPILED, lambda: other))
        blocks = _ours(stock, plan, compiled=True)
        found.append(Contestant(f"{OURS}, compiled", lambda: blocks, our_decoding=True))
    if levels(stock.scheduler)[0] < GUIDED[0]:
        found.append(Contestant(f"{OURS}, fast", ready(fast), our_decoding=True, speed="fast"))
    if each:
        found += [Contestant(f"only {name}", ready([name])) for name in fast]
    return found, absent


def _ours(stock: Any, plan: MemoryPlan, compiled: bool = False) -> Any:
    """Our pipeline of the same weights."""
    ours = twin(stock)
    ours.unet.forward = Guidance(ours.unet.forward)
    place(ours, plan)
    if compiled:
        compile_blocks(ours.unet, strict=True)  # who falls back on what is not compiled gets none
    return ours
