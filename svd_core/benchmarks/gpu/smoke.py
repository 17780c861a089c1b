"""Part smoke: frames of a tiny model under every offload setting, compared with the CPU's."""

import gc
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend

from svd_core.benchmarks.gpu.comparison import attention_by
from svd_core.benchmarks.gpu.context import Context, Figures, checkpoint, photo
from svd_core.checkpoints.memory_plan import Device, Offload
from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.checkpoints.table import Checkpoint
from svd_core.engine.engine import SvdEngine
from svd_core.engine.loaded_model import LoadedModel
from svd_core.errors import Cancelled
from svd_core.events import OnProgress, Progress, Stage
from svd_core.params import VideoParams
from svd_core.types import GenerationResult

MOST_LEVELS = 4
"""Levels of 255 by which half precision may change a pixel of the tiny model."""

LEAK_BYTES = 2**20
"""Growth of allocated memory over three clips above which it is a leak."""

REQUESTS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "2 frames": {"num_frames": 2},
    "5 frames": {"num_frames": 5},
    "no guidance": {"min_guidance_scale": 1.0, "max_guidance_scale": 1.0},
    "guidance 7": {"max_guidance_scale": 7.0},
    "fast": {"speed": "fast"},
}


def run_smoke(context: Context) -> None:
    """Check all offload settings. Without a GPU they have no effect, so one is enough."""
    context.case("noise in half precision", noise)
    small = checkpoint(context, tiny=True, single_precision=True)
    check(context, small, get_args(Offload) if context.cuda else ("none",))


def check(context: Context, checkpoint: Checkpoint, offloads: Sequence[Offload]) -> None:
    """Check `checkpoint`, a small folder with weights in half and in single precision."""
    smoke = Smoke(context, checkpoint, photo(checkpoint))
    if not context.case("CPU", smoke.compute_truth):
        return
    for offload in offloads:
        for name, work in (
            ("settings", smoke.settings),
            ("1 frame at a time", smoke.slices),
            ("cancelled", smoke.cancelled),
            ("out of memory once", smoke.out_of_memory),
            ("turbo and back", smoke.turbo),
            ("memory", smoke.memory),
        ):
            if context.cuda or name != "memory":
                context.case(f"{offload}: {name}", partial(work, offload))
    for name in ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION"):
        context.case(f"attention by {name}", partial(smoke.attention, getattr(SDPBackend, name)))


def noise() -> Figures:
    """Compare the noise of a seed in float16 and in float32, which differs before torch 2.13.

    Videos do not depend on it as long as noise is drawn in float32.
    """
    drawn = [
        torch.randn(4096, generator=torch.Generator().manual_seed(1), dtype=dtype).float()
        for dtype in (torch.float16, torch.float32)
    ]
    largest = float((drawn[0] - drawn[1]).abs().max())
    return {"largest_difference": round(largest, 4), "same": largest < 0.01}


@dataclass
class Smoke:
    """Cases of part smoke. `truth`: the CPU's clips by request, in float32."""

    context: Context
    checkpoint: Checkpoint
    image: Image.Image
    truth: dict[str, GenerationResult] = field(default_factory=dict)

    def compute_truth(self) -> Figures:
        cpu = Device(kind="cpu", name="CPU", total_bytes=0, free_bytes=0)
        model = LoadedModel.open(
            self.checkpoint, cpu, "none", AccelerationConfig(), ignore_progress, lambda: cpu
        )
        for name, request in REQUESTS.items():
            self.truth[name] = model.generate(self.image, params(**request), ignore_progress)
        model.close()
        spread = float(self.truth["plain"].frames.std())
        return {"clips": len(self.truth), "pixel_spread": round(spread, 1), "ok": spread > 1}

    def settings(self, offload: Offload) -> Figures:
        """Run every request in turn, another orientation, and the first request again."""
        engine = self._engine(offload)
        levels = {
            name: max_level_difference(self._clip(engine, **request), self.truth[name])
            for name, request in REQUESTS.items()
        }
        engine.generate(photo(self.checkpoint, portrait=True), params(), ignore_progress)
        first, again = self._clip(engine), self._clip(engine)
        repeated = max_level_difference(first, again)
        return {
            "levels": levels,
            "repeated": repeated,
            "device": engine.status.device,
            "ok": max(levels.values()) <= MOST_LEVELS and repeated == 0,
        }

    def slices(self, offload: Offload) -> Figures:
        return self._near(self._clip(self._engine(offload), decode_chunk_size=1))

    def cancelled(self, offload: Offload) -> Figures:
        """Cancel in every stage; a later clip equals an earlier one."""
        engine = self._engine(offload)
        first = self._clip(engine)
        for stage in (Stage.ENCODING, Stage.DENOISING, Stage.DECODING):
            with suppress(Cancelled):
                self._clip(engine, partial(cancel_in, stage))
        levels = max_level_difference(first, self._clip(engine))
        return {"levels": levels, "ok": levels == 0}

    def out_of_memory(self, offload: Offload) -> Figures:
        """Run out of memory in the first step; the smaller plan gives the same picture."""
        engine = self._engine(offload)
        self._clip(engine)
        calls: list[None] = []

        def fail(*_: Any) -> None:
            calls.append(None)
            if len(calls) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")

        assert engine._loaded is not None
        hook = engine._loaded._pipeline.unet.mid_block.register_forward_pre_hook(fail)
        try:
            clip = self._clip(engine)
        finally:
            hook.remove()
        return self._near(clip) | {"notes": clip.notes, "device": engine.status.device}

    def turbo(self, offload: Offload) -> Figures:
        """Load other weights and unload them, twice."""
        engine = self._engine(offload, AccelerationConfig(turbo=self._turbo_weights()))
        one, fast, other, again = (
            self._clip(engine, speed=speed) for speed in ("exact", "turbo", "exact", "turbo")
        )
        exact, turbo = max_level_difference(one, other), max_level_difference(fast, again)
        ok = exact == turbo == 0 < max_level_difference(one, fast)
        return {"exact": exact, "turbo": turbo, "ok": ok}

    def memory(self, offload: Offload) -> Figures:
        engine = self._engine(offload)
        self._clip(engine)
        held = torch.cuda.memory_allocated()
        for _ in range(3):
            self._clip(engine)
        grown = torch.cuda.memory_allocated() - held
        return {"grown_bytes": grown, "ok": grown <= LEAK_BYTES}

    def attention(self, backend: SDPBackend) -> Figures:
        with attention_by(backend, SDPBackend.MATH)(None):
            return self._near(self._clip(self._engine("none")))

    def _engine(
        self, offload: Offload, acceleration: AccelerationConfig | None = None
    ) -> SvdEngine:
        gc.collect()  # the previous engine, whose hooks reference each other
        return SvdEngine(self.checkpoint.source, offload, acceleration=acceleration)

    def _clip(
        self, engine: SvdEngine, on_progress: OnProgress | None = None, **request: Any
    ) -> GenerationResult:
        return engine.generate(self.image, params(**request), on_progress or ignore_progress)

    def _near(self, clip: GenerationResult) -> dict[str, object]:
        levels = max_level_difference(clip, self.truth["plain"])
        return {"levels": levels, "ok": levels <= MOST_LEVELS}

    def _turbo_weights(self) -> Path:
        path = self.context.scratch / "turbo.safetensors"
        if not path.exists():
            folder = Path(self.checkpoint.source) / "unet"
            weights = load_file(folder / "diffusion_pytorch_model.safetensors")
            torch.manual_seed(3)
            changed = {name: w + 0.05 * torch.randn_like(w) for name, w in weights.items()}
            save_file(changed, path)
        return path


def params(**request: Any) -> VideoParams:
    return VideoParams(**{"seed": 1, "num_inference_steps": 2, **request})


def ignore_progress(_: Progress) -> None:
    pass


def cancel_in(stage: Stage, progress: Progress) -> None:
    if progress.stage is stage:
        raise Cancelled


def max_level_difference(one: GenerationResult, other: GenerationResult) -> int:
    """Largest difference of two pixels, of 255; 256 for clips of different shapes."""
    if one.frames.shape != other.frames.shape:
        return 256
    return int(np.abs(one.frames.astype(np.int16) - other.frames).max())
