"""Value types that several packages share."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from svd_core.params import VideoParams

Frames = NDArray[np.uint8]
"""Shape (num_frames, height, width, 3), RGB, 0..255."""


@dataclass(frozen=True)
class GenerationResult:
    """Result of the engine. `params`: as requested, with each None replaced by the value used.

    `notes`, `peak_memory`: as in `Video`.
    """

    frames: Frames
    params: VideoParams
    notes: tuple[str, ...] = ()
    peak_memory: int | None = None
