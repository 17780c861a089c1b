"""Metrics of one clip: likeness to its photo, sharpness, temporal consistency, motion.

`metrics` says what becomes of it. Pixels are sRGB values 0..255, as they are shown.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from svd_core.training.optical_flow import Field, Frame, OpticalFlow
from svd_core.types import Frames

MAX_PSNR_DB = 60.0
"""Cap of every PSNR: beyond it nothing can be seen, and equal pictures would be infinitely good."""

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)

MIN_OVERLAP = 0.1
"""Share of a frame that must be found again in the next one for the two to be compared."""

CELL = 8
"""Pixels along one side of a cell of `ClipMetrics.motion`."""


@dataclass(frozen=True)
class ClipMetrics:
    """One clip in numbers. `sharpness`: one per frame.

    `motion`: trusted flow of every pair of neighbouring frames, averaged over cells, shape
    (num_frames - 1, cells down, cells across, 2). `speed`: its mean length in pixels per frame,
    taken before the averaging.
    """

    first_frame_psnr: float
    sharpness: tuple[float, ...]
    consistency: float
    speed: float
    motion: NDArray[np.float32]


def measure_clip(photo: Frame, frames: Frames, flow: OpticalFlow) -> ClipMetrics:
    """`frames`, which were made from the framed `photo`, measured."""
    errors, speeds, motion = [], [], []
    for before, after in zip(frames[:-1], frames[1:], strict=True):
        forward = flow.between(before, after)
        errors.append(_error_after_return(before, after, forward, flow))
        trusted = flow.consistent(forward, flow.between(after, before))
        moved = np.where(trusted[..., None], forward, np.float32(0))
        speeds.append(float(np.linalg.norm(moved, axis=-1).mean()))
        motion.append(_by_cells(moved))
    energy = max(gradient_energy(photo), 1e-6)
    return ClipMetrics(
        first_frame_psnr=psnr(photo, frames[0]),
        sharpness=tuple(min(1.0, gradient_energy(frame) / energy) for frame in frames),
        consistency=decibels(float(np.mean(errors))),
        speed=float(np.mean(speeds)),
        motion=np.stack(motion),
    )


def psnr(one: Frame, other: Frame) -> float:
    """Of 8-bit RGB, over all pixels and channels, in dB."""
    return decibels(float(np.mean((one.astype(np.float32) - other.astype(np.float32)) ** 2)))


def decibels(squared_error: float) -> float:
    return min(MAX_PSNR_DB, 10 * float(np.log10(255**2 / max(squared_error, 1e-9))))


def gradient_energy(frame: Frame) -> float:
    """Mean square of the step in luma (BT.601, 0..255) to the right and to the lower neighbour."""
    luma = frame.astype(np.float32) @ LUMA
    return float(sum((np.diff(luma, axis=axis) ** 2).mean() for axis in (0, 1)))


def _error_after_return(before: Frame, after: Frame, flow: Field, meter: OpticalFlow) -> float:
    """Mean squared difference of `before` and `after` warped back, where its source is inside."""
    returned, inside = meter.warp(after, flow)
    if inside.mean() < MIN_OVERLAP:
        return 255.0**2
    return float(((returned.astype(np.float32) - before) ** 2)[inside].mean())


def _by_cells(field: Field) -> NDArray[np.float32]:
    down, across = (side // CELL for side in field.shape[:2])
    whole = field[: down * CELL, : across * CELL]
    cells: NDArray[np.float32] = whole.reshape(down, CELL, across, CELL, 2).mean(axis=(1, 3))
    return cells
