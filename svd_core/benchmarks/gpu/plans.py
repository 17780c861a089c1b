"""Part plans: memory plans with the allocator limited to the free memory of smaller cards."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from svd_core.benchmarks.gpu.comparison import expandable_segments
from svd_core.benchmarks.gpu.context import Context, Figures, checkpoint, model, photo
from svd_core.benchmarks.gpu.smoke import ignore_progress
from svd_core.benchmarks.gpu.timing import profile_kernels
from svd_core.benchmarks.random_models import PARTS
from svd_core.checkpoints.memory_plan import Device, ModelSizes, estimate_memory, plan_memory
from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.checkpoints.table import Checkpoint
from svd_core.engine.loaded_model import LoadedModel
from svd_core.engine.pipeline_loader import model_sizes
from svd_core.params import VideoParams

SIZES_GB = (11.4, 7.6, 23.6, 15.6, 5.7, 8.3)
"""Free memory of cards of 12, 8, 24, 16, 6 and 8 GB; the first 8 GB card has a desktop as well."""

TINY_SIZES_GB = (0.9, 0.3)

STEPS = 2

EXPANDABLE_GB = 7.6
"""Size measured with expandable segments too, where fragmentation matters most."""


def run_plans(context: Context) -> None:
    model_folder = checkpoint(context, context.tiny)
    parts = ModelSizes()
    if context.tiny:
        parts = model_sizes(SimpleNamespace(**{part: model(context, part) for part in PARTS}))
    for size_gb in SIZES_GB if not context.tiny else TINY_SIZES_GB:
        context.case(f"{size_gb} GB", partial(measure, context, model_folder, parts, size_gb))
    if context.cuda:
        segments = partial(measure, context, model_folder, parts, EXPANDABLE_GB, expandable=True)
        context.case(f"{EXPANDABLE_GB} GB, expandable segments", segments)


def measure(
    context: Context,
    model_folder: Checkpoint,
    parts: ModelSizes,
    size_gb: float,
    expandable: bool = False,
) -> Figures:
    """Measure a clip of two steps, then profile one step, for the copies over the bus."""
    free = int(size_gb * 1e9)
    if context.cuda and free > torch.cuda.mem_get_info()[0]:
        return {"unavailable": "this GPU has less free memory"}
    device = Device(kind=context.device, name=f"{size_gb} GB", total_bytes=free, free_bytes=free)
    plan = plan_memory(device, model_folder, parts)
    number_bytes = 2 if plan.dtype == "float16" else 4
    expected = estimate_memory(model_folder, parts, number_bytes).peak(plan)
    with ExitStack() as stack:
        if context.cuda:
            stack.enter_context(limited(free))
        if expandable:
            stack.enter_context(expandable_segments())
        loaded = LoadedModel.open(
            model_folder, device, "auto", AccelerationConfig(), ignore_progress, lambda: device
        )
        try:
            return figures(context, loaded, size_gb) | {
                "plan": plan.describe(),
                "expected_gb": round(expected / 1e9, 2),
            }
        finally:
            loaded.close()


def figures(context: Context, loaded: LoadedModel, size_gb: float) -> dict[str, object]:
    image = photo(loaded.checkpoint)
    begin = time.perf_counter()
    clip = loaded.generate(image, VideoParams(seed=0, num_inference_steps=STEPS), ignore_progress)
    seconds = round(time.perf_counter() - begin, 2)
    reserved = torch.cuda.max_memory_reserved() if context.cuda else 0
    ran_out = any("Memory ran out" in note for note in clip.notes)
    row: dict[str, object] = {
        "seconds": seconds,
        "peak_gb": round((clip.peak_memory or 0) / 1e9, 2),
        "reserved_gb": round(reserved / 1e9, 2),
        "ran_out": ran_out,
        "ok": not ran_out,
        "notes": clip.notes,
    }
    if loaded.offload is not None:
        one = partial(
            loaded.generate, image, VideoParams(seed=0, num_inference_steps=1), ignore_progress
        )
        profile = profile_kernels(context.timer, one, f"one step, {size_gb} GB", context.folder)
        row["one_step_ms"] = profile["ms"]
        row["one_step_idle_ms"] = profile["idle_ms"]
    return row


@contextmanager
def limited(size: int) -> Iterator[None]:
    """Limit the allocator, and what the planner sees, to `size` bytes."""
    mem_get_info: Any = torch.cuda.mem_get_info
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, size / mem_get_info()[1]))

    def info(*_: Any, **__: Any) -> tuple[int, int]:
        return max(0, size - torch.cuda.memory_reserved()), size

    torch.cuda.mem_get_info = info
    try:
        yield
    finally:
        torch.cuda.mem_get_info = mem_get_info
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
