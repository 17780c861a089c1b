"""Parts clip, plans and contest: whole clips through the engine, under memory plans of smaller
cards, and in comparison with stock diffusers.
"""

import gc
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch

from svd_core.benchmarks.gpu.comparison import expandable_segments
from svd_core.benchmarks.gpu.context import Context, Figures, checkpoint, model, photo
from svd_core.benchmarks.gpu.smoke import ignore_progress
from svd_core.benchmarks.gpu.timing import profile_kernels
from svd_core.benchmarks.random_models import PARTS
from svd_core.benchmarks.vs_diffusers import contest
from svd_core.benchmarks.vs_diffusers.timing import ClipTiming
from svd_core.checkpoints.memory_plan import (
    Device,
    ModelSizes,
    OffloadSetting,
    estimate_memory,
    plan_memory,
)
from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.checkpoints.table import Checkpoint
from svd_core.engine.engine import SvdEngine
from svd_core.engine.loaded_model import LoadedModel
from svd_core.engine.pipeline_loader import model_sizes
from svd_core.events import Progress, Stage
from svd_core.params import VideoParams
from svd_core.types import GenerationResult


def run_clip(context: Context) -> None:
    clips = Clips(context)
    case = context.case
    if not case("checkpoint", clips.prepare):
        return
    if case("load", partial(clips.load, "auto")):
        case("exact, first", clips.measure)
        case("exact", clips.measure)
        case("fast", partial(clips.measure, speed="fast"))
        case("turbo, first", partial(clips.measure, speed="turbo"))
        case("turbo", partial(clips.measure, speed="turbo"))
        frames = 2 * clips.checkpoint.num_frames
        measure_long = partial(clips.measure, num_frames=frames, num_inference_steps=3)
        case("twice the frames, 3 steps", measure_long)
    for offload in ("model", "sequential"):
        if case(f"load, {offload} offload", partial(clips.load, offload)):
            case(f"{offload} offload, 2 steps, first", partial(clips.measure, **TWO_STEPS))
            case(f"{offload} offload, 2 steps", partial(clips.measure, **TWO_STEPS))


TWO_STEPS = {"num_inference_steps": 2}


@dataclass
class Clips:
    """Cases of part clip: one checkpoint, and the engine loaded last."""

    context: Context
    checkpoint: Checkpoint = field(init=False)
    engine: SvdEngine | None = None

    def prepare(self) -> Figures:
        begin = time.perf_counter()
        self.checkpoint = checkpoint(self.context, self.context.tiny)
        files = Path(self.checkpoint.source).rglob("*.safetensors")
        size = sum(path.stat().st_size for path in files)
        return {"write_s": round(time.perf_counter() - begin, 2), "gb": round(size / 1e9, 2)}

    def load(self, offload: OffloadSetting) -> Figures:
        """Unload the previous engine and load a new one.

        The checkpoint's own weights replace those of turbo, which take as long to load.
        """
        self.engine = None
        gc.collect()
        self.context.timer.release()
        source = self.checkpoint.source
        turbo = next((Path(source) / "unet").glob("*.safetensors"))
        self.engine = SvdEngine(source, offload, acceleration=AccelerationConfig(turbo=turbo))
        begin = time.perf_counter()
        self.engine.load(ignore_progress)
        load_s = round(time.perf_counter() - begin, 2)
        return {"load_s": load_s, "device": self.engine.status.device}

    def measure(self, **params: Any) -> Figures:
        """Measure one clip. `step_s`, `preview_step_s`: steps without and with a preview."""
        assert self.engine is not None
        seen: list[tuple[float, Progress]] = []

        def watch(progress: Progress) -> None:
            seen.append((time.perf_counter() - begin, progress))

        image = photo(self.checkpoint)
        begin = time.perf_counter()
        clip = self.engine.generate(image, VideoParams(seed=0, **params), watch)
        seconds = time.perf_counter() - begin
        steps = [(at, p) for at, p in seen if p.stage is Stage.DENOISING]
        plain, shown = (
            [end - start for (start, _), (end, p) in pairwise(steps) if bool(p.preview) is preview]
            for preview in (False, True)
        )
        decoding = next(at for at, p in seen if p.stage is Stage.DECODING)
        return {
            "seconds": round(seconds, 3),
            "encode_s": round(steps[0][0], 3),
            "step_s": round(median(plain), 4) if plain else None,
            "preview_step_s": round(median(shown), 4) if shown else None,
            "previews": len(shown),
            "decode_s": round(seconds - decoding, 3),
            "frames": len(clip.frames),
            "peak_gb": round((clip.peak_memory or 0) / 1e9, 2),
            "device": self.engine.status.device,
            "notes": clip.notes,
        }


# Part plans


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
    with (
        limited(free) if context.cuda else nullcontext(),
        expandable_segments() if expandable else nullcontext(),
        closing(LoadedModel.open(
            model_folder, device, "auto", AccelerationConfig(), ignore_progress, lambda: device
        )) as loaded,
    ):  # fmt: skip
        row = measure_plan(context, loaded, size_gb)
    return row | {"plan": plan.describe(), "expected_gb": round(expected / 1e9, 2)}


def measure_plan(context: Context, loaded: LoadedModel, size_gb: float) -> dict[str, object]:
    image = photo(loaded.checkpoint)

    def generate(steps: int) -> GenerationResult:
        params = VideoParams(seed=0, num_inference_steps=steps)
        return loaded.generate(image, params, ignore_progress)

    begin = time.perf_counter()
    clip = generate(STEPS)
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
        name = f"one step, {size_gb} GB"
        profile = profile_kernels(context.timer, lambda: generate(1), name, context.folder)
        row |= {"one_step_ms": profile["ms"], "one_step_idle_ms": profile["idle_ms"]}
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


# Part contest


TINY_CONTEST = ["--model", "tiny", "--frames", "2", "--steps", "1", "--rounds", "1"]
FULL_CONTEST = ["--model", "svd-xt", "--random-weights", "--steps", "6", "--rounds", "2"]

VERDICT_S = 10.0
"""Seconds of the remaining time for the comparison after the last clip."""


def run_contest(context: Context) -> None:
    context.case("contest", lambda: _run_contest(context))


def _run_contest(context: Context) -> Figures:
    """Run `python -m svd_core.benchmarks contest` on random weights; every clip is a row."""
    count: Counter[str] = Counter()

    def on_shot(name: str, shot: ClipTiming) -> None:
        count[name] += 1
        context.recorder.write(f"{name}, clip {count[name]}", **shot.figures())

    budget = max(0.0, context.remaining_s() - VERDICT_S)
    arguments = TINY_CONTEST if context.tiny else FULL_CONTEST
    options = contest.make_contest_parser().parse_args(
        [*arguments, "--no-compile", "--budget", f"{budget:.0f}"]
    )
    result = contest.run_contest(options, on_shot)
    for name, row in result.pop("contestants").items():
        context.recorder.write(f"{name}, median", **row)
    failed = result.pop("failed")
    return result | {"contestants_failed": failed, "ok": not failed}
