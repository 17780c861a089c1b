"""Regional `torch.compile` of UNet blocks: slow for the first clip, faster for every later one.

Regional: not the UNet as a whole is compiled, but its blocks one by one, as they have been
rewritten, since many of them are of one kind and share the work. Shapes are static, so each size of
video pays for itself. What was compiled is kept on disk by torch, for the next start too.
"""

import hashlib
import logging
import os
import platform
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers.models.resnet import SpatioTemporalResBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel

from svd_core import __version__
from svd_core.checkpoints.memory_plan import MemoryPlan
from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.checkpoints.table import Size
from svd_core.engine.optimizations.patching import PatchedForward, patch_name
from svd_core.params import Speed, VideoParams

BLOCKS = (SpatioTemporalResBlock, TransformerSpatioTemporalModel)

MAX_VARIANTS = 64
"""Of one block's code that torch may keep: SVD has blocks of four widths, at four sizes, with one
half of a guided step or both. Beyond its own limit of 8 it would give up without a word."""

NAME = "compiled"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CompileKey:
    """Of clips, for which the same is compiled. `model`: name and weights, as what is silent
    depends on them."""

    model: str
    plan: MemoryPlan
    size: Size
    num_frames: int
    guided: bool
    speed: Speed

    @classmethod
    def from_request(
        cls, model: str, plan: MemoryPlan, size: Size, params: VideoParams
    ) -> "CompileKey":
        """That of a clip of `params`, of which none that tell kinds apart may be None."""
        assert params.num_frames is not None
        assert params.max_guidance_scale is not None
        guided = params.max_guidance_scale > 1.0
        return cls(
            model=model,
            plan=plan,
            size=size,
            num_frames=params.num_frames,
            guided=guided,
            speed=params.speed,
        )

    def cache_key(self) -> str:
        """Short hash of it, and of all on this machine that it depends on."""
        here = torch.cuda.get_device_name() if self.plan.device == "cuda" else platform.machine()
        made_by = torch.__version__, diffusers.__version__, __version__, here
        return hashlib.sha256(repr((self, *made_by)).encode()).hexdigest()[:16]


def compile_blocks(unet: Any, backend: Any = "inductor", strict: bool = False) -> int:
    """Compile every block of `unet` that is not silent, when it is first used. Returns how many.

    What cannot be compiled runs as it is, with torch's warning, unless `strict`. What was compiled
    before, on this or any other model, is forgotten, but for what torch keeps on disk.
    `patching.take_off` undoes it, and every other rewrite.
    """
    torch._dynamo.reset()
    dynamo: Any = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, MAX_VARIANTS)
    dynamo.suppress_errors = not strict
    found: list[Any] = [
        layer
        for layer in unet.modules()
        if isinstance(layer, BLOCKS) and patch_name(layer) not in ("silent", NAME)
    ]
    for layer in found:
        forward = torch.compile(layer.forward, dynamic=False, backend=backend)
        layer.forward = PatchedForward(NAME, forward)
    return len(found)


def forget_blocks() -> None:
    """Let go of what was compiled, which may hold on to weights; what torch keeps on disk stays."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


class CompileCache:
    """What has been compiled on this machine, as the operator wants it; see
    `AccelerationConfig`."""

    def __init__(self, wanted: AccelerationConfig) -> None:
        self._setting = wanted.compile
        self._folder = wanted.folder
        if self._folder is None or self._setting == "off":
            return
        if not can_compile():
            self._setting = "off"
            if wanted.compile == "on":
                log.warning("SVD_COMPILE=on has no effect: there is no C++ compiler (g++) here.")
            return
        # Torch reads it before it compiles for the first time.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(self._folder / "torch"))

    def is_wanted(self, kind: CompileKey) -> bool:
        """Whether blocks are to be compiled for clips of that kind."""
        if self._folder is None or self._setting == "off" or kind.plan.offload == "sequential":
            return False
        return self._setting == "on" or self.is_cached(kind)

    def is_cached(self, kind: CompileKey) -> bool:
        """Whether such a clip was made before, here or by an earlier process."""
        return self._folder is not None and (self._folder / kind.cache_key()).exists()

    def mark_cached(self, kind: CompileKey) -> None:
        """Such a clip has been made: the next one finds all compiled."""
        assert self._folder is not None
        with suppress(OSError):  # then it is compiled once more
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / kind.cache_key()).touch()


def can_compile() -> bool:
    """Whether the compiler that torch's own asks for is here, on a GPU for the code around it."""
    return shutil.which(os.environ.get("CXX") or "g++") is not None
