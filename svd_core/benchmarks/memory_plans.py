"""Memory of SVD-XT under each memory plan, counted: `python -m svd_core.benchmarks plans`.

Counted, not measured: activations in half precision, stock and with our rewrites, and the cost of
each plan: operations of a clip, and bytes of weights over the bus. Ends in one line of JSON.

On the `meta` device tensors have sizes and no numbers, so SVD-XT can be counted on any machine.
Attention counts as a flash kernel, which writes only its result. Memory of libraries (cuDNN's
workspaces, fragmentation) is not counted.
"""

import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  # the field's name
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from svd_core.benchmarks.random_models import full_size
from svd_core.benchmarks.targets import print_json
from svd_core.checkpoints.memory_plan import MemoryPlan, ModelSizes, estimate_memory
from svd_core.checkpoints.table import CHECKPOINTS
from svd_core.engine.optimizations.block_offload import resident_bytes
from svd_core.engine.optimizations.patching import patch
from svd_core.engine.optimizations.registry import OPTIMIZATIONS, optimizations_for
from svd_core.engine.optimizations.vae_decode import chunked_decode

READ_WEIGHTS = ("silent",)
"""Rewrites that read weights, which have no numbers here."""

SHAPE = (25, 72, 128)
"""Frames, height and width of SVD-XT's latents."""

STEPS = CHECKPOINTS["svd-xt"].num_inference_steps

START = MemoryPlan(device="cuda", dtype="float16", decode_chunk_size=SHAPE[0])

PLANS: tuple[tuple[Any, bool, int], ...] = (
    ("none", False, SHAPE[0]),
    ("none", False, 4),
    ("model", False, 4),
    ("model", True, 1),
    ("sequential", True, 1),
)


def step_bytes(unet: Any, halves: int) -> int:
    """Peak bytes of activations of one step."""
    return peak_bytes(lambda: run_step(unet, halves))


def decode_bytes(vae: Any, at_once: int) -> int:
    """Peak bytes of activations of decoding `at_once` frames at a time."""
    return peak_bytes(lambda: _decode(vae, at_once))


def clip_flops(unet: Any, vae: Any, at_once: int) -> float:
    """Operations of all steps, guided, and of decoding; a multiply-add counts as two."""
    step = count_flops(lambda: run_step(unet, 2))
    return STEPS * step + count_flops(lambda: _decode(vae, at_once))


def moved_bytes(plan: MemoryPlan, parts: ModelSizes) -> int:
    """Bytes of weights over the bus for one clip; none are copied back.

    Whole models are copied once, the VAE for encoding and for decoding. Blocks of the UNet are
    copied for each of its calls.
    """
    if plan.offload == "none":
        return 0
    calls = 1
    if plan.offload == "sequential":
        calls = STEPS * (2 if plan.split_guidance else 1)
    return 2 * (parts.image_encoder + calls * parts.unet + 2 * parts.vae)


def optimized_on_meta(model: Any) -> Any:
    """`model` with the rewrites of CUDA that need no numbers; blend factors are even."""
    for name, parameter in list(model.named_parameters()):
        if name.endswith("mix_factor"):
            blender = model.get_submodule(name.rpartition(".")[0])
            blender.mix_factor = torch.nn.Parameter(torch.zeros(1, dtype=parameter.dtype))
    names = [name for name in optimizations_for(START) if name not in READ_WEIGHTS]
    patch(model, [(name, OPTIMIZATIONS[name].rewrite) for name in names])
    return model


def run_step(unet: Any, halves: int, shape: tuple[int, int, int] = SHAPE) -> None:
    """A step of a `unet` in half precision. `shape`: frames, height and width of the latents."""
    unet(
        _empty(halves, shape[0], unet.config.in_channels, *shape[1:]),
        _empty(),
        _empty(halves, 1, unet.config.cross_attention_dim),
        _empty(halves, 3),
    )


def _decode(vae: Any, at_once: int) -> None:
    frames = SHAPE[0]
    slices = chunked_decode(vae.decoder, at_once, lambda _: None)
    with slices if at_once < frames else nullcontext():
        vae.decode(_empty(frames, 4, *SHAPE[1:]), num_frames=frames)


def count_flops(compute: Callable[[], None]) -> float:
    """Operations of `compute`; a multiply-add counts as two."""
    counter: Any = FlopCounterMode(display=False)
    with torch.no_grad(), counter, torch.device("meta"):
        compute()
    return float(counter.get_total_flops())


def _empty(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.float16, device="meta")


def main(_: Sequence[str] = ()) -> int:
    unet, vae = full_size()
    counts = {
        "streamed UNet weights": resident_bytes(unet),
        "stock step": step_bytes(unet, 2),
        "stock step, split": step_bytes(unet, 1),
        "stock decode": decode_bytes(vae, SHAPE[0]),
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
    print_json({"counted_bytes": counts, "plans": plans})
    return 0


# Activation memory


def peak_bytes(compute: Callable[[], Any]) -> int:
    """Peak bytes of the tensors that `compute` makes."""
    with torch.no_grad(), torch.device("meta"), _AllocationTracker() as live, _FlashAttention():
        compute()
    peak: int = live.peak
    return peak


class _AllocationTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages, each from its creation to its release."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return made

    def _see(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._alive:
            return
        self._alive[key] = storage.nbytes()
        self._now += self._alive[key]
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._alive.pop(key, 0)


class _FlashAttention(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))
