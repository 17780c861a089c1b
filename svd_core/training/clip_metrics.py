"""Clip metrics: likeness to the photo, sharpness, temporal consistency, motion by optical flow.

`metrics` computes the figures of a model from them. Pixels are sRGB values 0..255, as shown.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_core.errors import ToolFailed
from svd_core.types import Frames

Frame = NDArray[np.uint8]
"""Shape (height, width, 3), RGB, 0..255."""

Field = NDArray[np.float32]
"""Shape (height, width, 2): pixels to the right and down from the first frame to the second."""

Mask = NDArray[np.bool_]

TRUST = (0.1, 0.1)
"""Pixels, plus share of the flow, by which forward and backward flow may disagree."""


class OpticalFlow:
    """Dense optical flow by OpenCV's DIS. Raises `SvdError` if OpenCV is not installed."""

    def __init__(self) -> None:
        try:
            import cv2
        except ImportError as error:
            raise ToolFailed(
                "Motion is measured with OpenCV, which is not installed: run "
                "`pip install opencv-python-headless`, or install all of tests/requirements.txt."
            ) from error
        self._cv2: Any = cv2
        # The search uses one stripe per thread, each starting from its neighbour. With one thread
        # the figures are the same on every machine.
        self._cv2.setNumThreads(1)
        self._search = self._cv2.DISOpticalFlow_create(self._cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def between(self, before: Frame, after: Frame) -> Field:
        """Flow from `before` to `after`, plausible or not.

        Exact to a tenth from half a pixel on; shorter flows are measured up to a fifth too long.
        """
        grey = (self._cv2.cvtColor(frame, self._cv2.COLOR_RGB2GRAY) for frame in (before, after))
        flow: Field = self._search.calc(*grey, None)
        return flow

    def warp(self, picture: NDArray[Any], flow: Field) -> tuple[NDArray[Any], Mask]:
        """`picture` sampled where `flow` points to, and a mask that is False outside of it."""
        height, width = flow.shape[:2]
        y, x = np.mgrid[:height, :width].astype(np.float32)
        to_x, to_y = x + flow[..., 0], y + flow[..., 1]
        inside = (to_x >= 0) & (to_x <= width - 1) & (to_y >= 0) & (to_y <= height - 1)
        return self._cv2.remap(picture, to_x, to_y, self._cv2.INTER_LINEAR), inside

    def consistent(self, forward: Field, backward: Field) -> Mask:
        """Mask of the pixels to which the backward flow returns (forward-backward check).

        That holds for real motion, and hardly anywhere for noise or a fade, whose two flows
        contradict each other.
        """
        back, inside = self.warp(backward, forward)
        distance = np.linalg.norm(forward + back, axis=-1)
        close: Mask = distance < TRUST[0] + TRUST[1] * np.linalg.norm(forward, axis=-1)
        return inside & close


MAX_PSNR_DB = 60.0
"""Cap of every PSNR; equal pictures would have an infinite one."""

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)

MIN_OVERLAP = 0.1
"""Share of a frame that must be visible in the next one for a comparison."""

CELL = 8
"""Side in pixels of a cell of `ClipMetrics.motion`."""


@dataclass(frozen=True)
class ClipMetrics:
    """Metrics of one clip. `sharpness`: one per frame.

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
    """Measure `frames`, which were made from the framed `photo`."""
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
    """PSNR of 8-bit RGB over all pixels and channels, in dB."""
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
