"""Regional `torch.compile` of blocks: slow for the first clip, faster for every later one.

The patched blocks are compiled one by one, and those of the same kind share their code. Shapes are
static, so each size of video is compiled on its own. The halves of a guided step run one after the
other, so that steps with and without guidance share their code. Torch keeps it on disk.
"""

import hashlib
import logging
import os
import platform
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
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
from svd_core.params import Speed

BLOCKS = (SpatioTemporalResBlock, TransformerSpatioTemporalModel)

MAX_VARIANTS = 64
"""Compiled variants of one block's code that torch may keep. SVD has blocks of four widths, at four
sizes. Beyond the limit, 8 by default, torch silently stops compiling."""

NAME = "compiled"
"""Name of the rewrite of compiled blocks."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CompileKey:
    """Everything that the speed of a clip depends on.

    `model`: name and weights, since the weights decide which branches are skipped.
    """

    model: str
    plan: MemoryPlan
    size: Size
    num_frames: int
    guided: bool
    speed: Speed

    def cache_key(self) -> str:
        """Short hash of what the code depends on, the machine and the library versions.

        Guidance is not part of it, nor is a speed with the same weights.
        """
        plan = replace(self.plan, split_guidance=True)
        speed: Speed = "turbo" if self.speed == "turbo" else "exact"
        key = replace(self, plan=plan, guided=True, speed=speed)
        on_cuda = plan.device == "cuda"
        hardware = torch.cuda.get_device_name(plan.target) if on_cuda else platform.machine()
        versions = torch.__version__, diffusers.__version__, __version__
        return hashlib.sha256(repr((key, *versions, hardware)).encode()).hexdigest()[:16]


def compile_pipeline(pipeline: Any, plan: MemoryPlan) -> int:
    """Compile the blocks of the UNet, and on a GPU those of the decoder. Returns how many.

    The decoder's are used only if all frames are decoded at once. On a CPU they do not pay.
    """
    pipeline.unet.forward.split = True
    decoder = (pipeline.vae.decoder,) if plan.device == "cuda" else ()
    return compile_blocks(pipeline.unet, *decoder)


def compile_blocks(*models: Any, backend: Any = "inductor", strict: bool = False) -> int:
    """Compile the blocks of `models`, except skipped ones, on first use. Returns how many.

    Blocks that cannot be compiled run unchanged, with torch's warning, unless `strict`. Code
    compiled before, for any model, is dropped from memory. `unpatch` undoes it, with every rewrite.
    """
    torch._dynamo.reset()
    dynamo: Any = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, MAX_VARIANTS)
    dynamo.suppress_errors = not strict
    blocks: list[Any] = [
        layer
        for model in models
        for layer in model.modules()
        if isinstance(layer, BLOCKS) and patch_name(layer) not in ("silent", NAME)
    ]
    for block in blocks:
        forward = torch.compile(block.forward, dynamic=False, backend=backend)
        block.forward = PatchedForward(NAME, forward)
    return len(blocks)


def forget_blocks() -> None:
    """Drop compiled code from memory, since it may hold references to weights."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


class CompileCache:
    """Record of the kinds of clips that have been compiled on this machine.

    It decides by `AccelerationConfig.compile` whether blocks are compiled for a clip.
    """

    def __init__(self, acceleration: AccelerationConfig) -> None:
        self._setting = acceleration.compile
        self._folder = acceleration.folder
        if self._folder is None or self._setting == "off":
            return
        if not can_compile():
            self._setting = "off"
            if acceleration.compile == "on":
                log.warning(
                    "SVD_COMPILE=on has no effect, because no C++ compiler was found. Install g++, "
                    "or set CXX to another one."
                )
            return
        # Torch reads it before it compiles for the first time.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(self._folder / "torch"))

    def is_wanted(self, kind: CompileKey) -> bool:
        if self._folder is None or self._setting == "off" or kind.plan.offload == "sequential":
            return False
        return self._setting == "on" or self.is_cached(kind)

    def is_cached(self, kind: CompileKey) -> bool:
        """Whether such a clip was made before, by this or an earlier process."""
        return self._folder is not None and (self._folder / kind.cache_key()).exists()

    def mark_cached(self, kind: CompileKey) -> None:
        """Record that such a clip was made, so that the next one is compiled too."""
        assert self._folder is not None
        with suppress(OSError):  # then it is compiled once more
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / kind.cache_key()).touch()


def can_compile() -> bool:
    """Whether there is a C++ compiler, which torch needs on a CPU and on a GPU."""
    return shutil.which(os.environ.get("CXX") or "g++") is not None
