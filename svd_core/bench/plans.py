"""What SVD-XT takes of a GPU under each memory plan: `python -m svd_core.bench plans`.

Counted, not measured: activations in half precision on tensors without numbers, stock and with our
rewrites, and what the planner makes of them. Ends in one line of JSON.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from svd_core.bench.live import peak_bytes
from svd_core.bench.weights import full_size
from svd_core.fast.exact import EXACT
from svd_core.fast.rewrites import put_on
from svd_core.fast.whole_clip import frames_at_once
from svd_core.memory import MemoryPlan, Parts, demand
from svd_core.models import CHECKPOINTS

READ_WEIGHTS = ("silent", "units")
"""Rewrites that ask what weights are; here they have no numbers."""

FRAMES, HEIGHT, WIDTH = 25, 72, 128
"""Of SVD-XT's latents."""


def step_bytes(unet: Any, halves: int) -> int:
    """Activations of one step."""

    def compute() -> None:
        unet(
            _empty(halves, FRAMES, 8, HEIGHT, WIDTH),
            _empty(),
            _empty(halves, 1, unet.config.cross_attention_dim),
            _empty(halves, 3),
        )

    with torch.device("meta"):
        return peak_bytes(compute)


def decode_bytes(vae: Any, at_once: int) -> int:
    """Activations of decoding, all frames at once or in slices of `at_once`."""
    latents = _empty(FRAMES, 4, HEIGHT, WIDTH)
    if at_once >= FRAMES:
        return peak_bytes(lambda: vae.decode(latents, num_frames=FRAMES))
    with frames_at_once(vae.decoder, at_once, lambda _: None):
        return peak_bytes(lambda: vae.decode(latents, num_frames=FRAMES))


def rewritten_on_meta(model: Any) -> Any:
    """`model` with every rewrite that can be put on without numbers; blends are even."""
    for name, parameter in list(model.named_parameters()):
        if name.endswith("mix_factor"):
            blender = model.get_submodule(name.rpartition(".")[0])
            blender.mix_factor = torch.nn.Parameter(torch.zeros(1, dtype=parameter.dtype))
    put_on(model, [(n, e.rewrite) for n, e in EXACT.items() if n not in READ_WEIGHTS])
    return model


def _empty(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.float16, device="meta")


def main(_: Sequence[str] = ()) -> int:
    unet, vae = full_size()
    counts = {
        "stock step": step_bytes(unet, 2),
        "stock step, split": step_bytes(unet, 1),
        "stock decode": decode_bytes(vae, FRAMES),
    }
    unet, vae = rewritten_on_meta(unet), rewritten_on_meta(vae)
    counts |= {"step": step_bytes(unet, 2), "step, split": step_bytes(unet, 1)}
    counts |= {f"decode, {n} at once": decode_bytes(vae, n) for n in (1, 4, 8)}
    print("SVD-XT, 25 frames of 1024x576, half precision, counted activations")
    for name, count in counts.items():
        print(f"{name:24}{count / 2**30:8.2f} GiB")
    needs = demand(CHECKPOINTS["svd-xt"], Parts(), 2)
    planned = {}
    for offload, split, at_once in PLANS:
        plan = replace(START, offload=offload, split_guidance=split, decode_chunk_size=at_once)
        planned[plan.told()] = needs.peak(plan)
    print("Peak that the planner expects, weights included")
    for name, peak in planned.items():
        print(f"{name:72}{peak / 1e9:8.1f} GB")
    print(json.dumps({"counted_bytes": counts, "planned_bytes": planned}))
    return 0


START = MemoryPlan(device="cuda", dtype="float16", decode_chunk_size=FRAMES)

PLANS: tuple[tuple[Any, bool, int], ...] = (
    ("none", False, FRAMES),
    ("none", False, 4),
    ("model", False, 4),
    ("model", True, 1),
    ("sequential", True, 1),
)
