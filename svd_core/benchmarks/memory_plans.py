"""Memory of SVD-XT under each memory plan, counted: `python -m svd_core.benchmarks plans`.

Counted, not measured: activations in half precision on tensors without numbers, stock and with our
rewrites, what the planner makes of them, and what each plan costs: operations of a clip, and bytes
of weights over the bus. Ends in one line of JSON.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from svd_core.benchmarks.activation_memory import peak_bytes
from svd_core.benchmarks.random_models import full_size
from svd_core.checkpoints.memory_plan import MemoryPlan, ModelSizes, estimate_memory
from svd_core.checkpoints.table import CHECKPOINTS
from svd_core.engine.optimizations.patching import patch
from svd_core.engine.optimizations.registry import OPTIMIZATIONS, optimizations_for
from svd_core.engine.optimizations.vae_decode import chunked_decode

READ_WEIGHTS = ("silent",)
"""Rewrites that ask what weights are; here they have no numbers."""

FRAMES, HEIGHT, WIDTH = 25, 72, 128
"""Of SVD-XT's latents."""

STEPS = CHECKPOINTS["svd-xt"].num_inference_steps


def step_bytes(unet: Any, halves: int) -> int:
    """Activations of one step."""
    return peak_bytes(lambda: _step(unet, halves))


def decode_bytes(vae: Any, at_once: int) -> int:
    """Activations of decoding, all frames at once or in slices of `at_once`."""
    return peak_bytes(lambda: _decode(vae, at_once))


def clip_flops(unet: Any, vae: Any, at_once: int) -> float:
    """Operations of all steps, guided, and of decoding; a product and a sum are two."""
    return STEPS * _flops(lambda: _step(unet, 2)) + _flops(lambda: _decode(vae, at_once))


def moved_bytes(plan: MemoryPlan, parts: ModelSizes) -> int:
    """Weights over the bus for one clip, and none back. Whole models come once, the VAE to encode
    and to decode; layers come for each use, but once for all slices of it. Frames decoded as clips
    of their own have the VAE come for each of these."""
    if plan.offload == "none":
        return 0
    if plan.offload == "model":
        return 2 * (parts.total + parts.vae)
    calls = STEPS * (2 if plan.split_guidance else 1)
    clips = 1 if plan.whole_clip else -(-FRAMES // plan.decode_chunk_size)
    return 2 * (parts.image_encoder + calls * parts.unet + clips * parts.vae)


def optimized_on_meta(model: Any) -> Any:
    """`model` as CUDA has it, as far as that can be without numbers; blends are even."""
    for name, parameter in list(model.named_parameters()):
        if name.endswith("mix_factor"):
            blender = model.get_submodule(name.rpartition(".")[0])
            blender.mix_factor = torch.nn.Parameter(torch.zeros(1, dtype=parameter.dtype))
    names = [name for name in optimizations_for(START) if name not in READ_WEIGHTS]
    patch(model, [(name, OPTIMIZATIONS[name].rewrite) for name in names])
    return model


def _step(unet: Any, halves: int) -> None:
    with torch.device("meta"):
        unet(
            _empty(halves, FRAMES, 8, HEIGHT, WIDTH),
            _empty(),
            _empty(halves, 1, unet.config.cross_attention_dim),
            _empty(halves, 3),
        )


def _decode(vae: Any, at_once: int) -> None:
    latents = _empty(FRAMES, 4, HEIGHT, WIDTH)
    slices = nullcontext() if at_once >= FRAMES else _sliced(vae, at_once)
    with slices:
        vae.decode(latents, num_frames=FRAMES)


def _sliced(vae: Any, at_once: int) -> AbstractContextManager[None]:
    return chunked_decode(vae.decoder, at_once, lambda _: None)


def _flops(compute: Callable[[], None]) -> float:
    counter: Any = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        compute()
    return float(counter.get_total_flops())


def _empty(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.float16, device="meta")


def main(_: Sequence[str] = ()) -> int:
    unet, vae = full_size()
    counts = {
        "stock step": step_bytes(unet, 2),
        "stock step, split": step_bytes(unet, 1),
        "stock decode": decode_bytes(vae, FRAMES),
    }
    unet, vae = optimized_on_meta(unet), optimized_on_meta(vae)
    counts |= {"step": step_bytes(unet, 2), "step, split": step_bytes(unet, 1)}
    counts |= {f"decode, {n} at once": decode_bytes(vae, n) for n in (1, 4, 8)}
    print("SVD-XT, 25 frames of 1024x576, half precision, counted activations")
    for name, count in counts.items():
        print(f"{name:24}{count / 2**30:8.2f} GiB")
    needs = estimate_memory(CHECKPOINTS["svd-xt"], ModelSizes(), 2)
    plans = {}
    print(f"\n{'plan':66}{'peak':>8}{'PFLOP':>8}{'moved':>10}")
    for offload, split, at_once in PLANS:
        plan = replace(START, offload=offload, split_guidance=split, decode_chunk_size=at_once)
        peak, moved = needs.peak(plan), moved_bytes(plan, ModelSizes())
        flops = clip_flops(unet, vae, at_once)
        plans[plan.describe()] = {"peak_bytes": peak, "flops": flops, "moved_bytes": moved}
        print(f"{plan.describe():66}{peak / 1e9:5.1f} GB{flops / 1e15:8.2f}{moved / 1e9:7.1f} GB")
    print("peak: what the planner expects, weights included; moved: weights over the bus, a clip")
    print(json.dumps({"counted_bytes": counts, "plans": plans}))
    return 0


START = MemoryPlan(device="cuda", dtype="float16", decode_chunk_size=FRAMES)

PLANS: tuple[tuple[Any, bool, int], ...] = (
    ("none", False, FRAMES),
    ("none", False, 4),
    ("model", False, 4),
    ("model", True, 1),
    ("sequential", True, 1),
)
