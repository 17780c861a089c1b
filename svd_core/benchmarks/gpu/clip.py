"""Parts clip and contest: whole clips through the engine, and against stock diffusers."""

import gc
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from svd_core.benchmarks.gpu.context import Context, Figures, checkpoint, photo
from svd_core.benchmarks.gpu.smoke import ignore_progress
from svd_core.benchmarks.vs_diffusers import contest
from svd_core.benchmarks.vs_diffusers.timing import ClipTiming
from svd_core.checkpoints.memory_plan import OffloadSetting
from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.checkpoints.table import Checkpoint
from svd_core.engine.engine import SvdEngine
from svd_core.events import Progress, Stage
from svd_core.params import VideoParams


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
        case("twice the frames, 3 steps", clips.measure_long)
    for offload in ("model", "sequential"):
        if case(f"load, {offload} offload", partial(clips.load, offload)):
            case(f"{offload} offload, 2 steps, first", partial(clips.measure, **TWO_STEPS))
            case(f"{offload} offload, 2 steps", partial(clips.measure, **TWO_STEPS))


TWO_STEPS = {"num_inference_steps": 2}


@dataclass
class Clips:
    """Cases of part clip: one checkpoint, and the engine that was loaded last."""

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

        The weights of the checkpoint stand for those of turbo, which take as long to load.
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

    def measure_long(self) -> Figures:
        return self.measure(num_frames=2 * self.checkpoint.num_frames, num_inference_steps=3)

    def measure(self, **params: Any) -> Figures:
        """Measure one clip. `step_s`, `preview_step_s`: of steps without and with a preview."""
        assert self.engine is not None
        seen: list[tuple[float, Progress]] = []

        def watch(progress: Progress) -> None:
            seen.append((time.perf_counter() - begin, progress))

        image = photo(self.checkpoint)
        begin = time.perf_counter()
        clip = self.engine.generate(image, VideoParams(seed=0, **params), watch)
        seconds = time.perf_counter() - begin
        steps = [(at, p) for at, p in seen if p.stage is Stage.DENOISING]
        pairs = list(zip(steps, steps[1:], strict=False))
        plain = [end - start for (start, _), (end, p) in pairs if p.preview is None]
        shown = [end - start for (start, _), (end, p) in pairs if p.preview is not None]
        decoding = min((at for at, p in seen if p.stage is Stage.DECODING), default=None)
        return {
            "seconds": round(seconds, 3),
            "encode_s": round(steps[0][0], 3) if steps else None,
            "step_s": round(median(plain), 4) if plain else None,
            "preview_step_s": round(median(shown), 4) if shown else None,
            "previews": len(shown),
            "decode_s": None if decoding is None else round(seconds - decoding, 3),
            "frames": len(clip.frames),
            "peak_gb": round((clip.peak_memory or 0) / 1e9, 2),
            "device": self.engine.status.device,
            "notes": clip.notes,
        }


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
