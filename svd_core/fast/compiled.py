"""Blocks of the UNet compiled by torch: the first clip takes minutes, every later step less.

Regional: not the UNet as a whole is compiled, but its blocks one by one, as they have been
rewritten, since many of them are of one kind and share the work. Shapes are static, so each size of
video pays for itself. What was compiled is kept on disk by torch, for the next start too.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.resnet import SpatioTemporalResBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel

from svd_core.fast.rewrites import Rewritten, rewritten_by
from svd_core.speed import SpeedUps

Kind = tuple[object, ...]
"""Of clips, for which the same is compiled."""

BLOCKS = (SpatioTemporalResBlock, TransformerSpatioTemporalModel)

VARIANTS = 64
"""Of one block's code that torch may keep: SVD has blocks of four widths, at four sizes, with one
half of a guided step or both. Beyond its own limit of 8 it would give up without a word."""

NAME = "compiled"


def compile_blocks(unet: Any, backend: str = "inductor") -> int:
    """Compile every block of `unet` that is not silent, when it is first used. Returns how many.

    What cannot be compiled runs as it is, with torch's warning. `rewrites.take_off` undoes it, and
    every other rewrite.
    """
    dynamo: Any = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, VARIANTS)
    dynamo.suppress_errors = True
    found: list[Any] = [
        layer
        for layer in unet.modules()
        if isinstance(layer, BLOCKS) and rewritten_by(layer) not in ("silent", NAME)
    ]
    for layer in found:
        forward = torch.compile(layer.forward, dynamic=False, backend=backend)
        layer.forward = Rewritten(NAME, forward)
    return len(found)


class Compiled:
    """What has been compiled on this machine, as the operator wants it; see `SpeedUps`."""

    def __init__(self, wanted: SpeedUps) -> None:
        self._setting = wanted.compile if _can_compile() else "off"
        self._folder = wanted.folder
        if self._folder is not None and self._setting != "off":
            # Torch reads it before it compiles for the first time.
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(self._folder / "torch")

    def wanted(self, kind: Kind) -> bool:
        """Whether blocks are to be compiled for clips of that kind."""
        if self._folder is None or self._setting == "off":
            return False
        return self._setting == "on" or self.had(kind)

    def had(self, kind: Kind) -> bool:
        """Whether such a clip was made before, here or by an earlier process."""
        return self._folder is not None and self._mark(self._folder, kind).exists()

    def note(self, kind: Kind) -> None:
        """Such a clip has been made: the next one finds all compiled."""
        assert self._folder is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        self._mark(self._folder, kind).touch()

    @staticmethod
    def _mark(folder: Path, kind: Kind) -> Path:
        known = repr((torch.__version__, diffusers.__version__, *kind))
        return folder / f"{hashlib.sha256(known.encode()).hexdigest()[:16]}.done"


def _can_compile() -> bool:
    """On a GPU torch brings its compiler; for a processor it wants one of the system's."""
    return torch.cuda.is_available() or any(map(shutil.which, ("g++", "clang++", "c++")))
