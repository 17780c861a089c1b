"""Dense optical flow between two frames, by OpenCV's DIS."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_core.errors import SvdError

Frame = NDArray[np.uint8]
"""Shape (height, width, 3), RGB, 0..255."""

Field = NDArray[np.float32]
"""Shape (height, width, 2): pixels to the right and down from the first frame to the second."""

Mask = NDArray[np.bool_]

TRUST = (0.1, 0.1)
"""Pixels, and share of the flow, by which the way there and back may miss its start."""


class OpticalFlow:
    """Measures how frames move. Raises `SvdError` where OpenCV is not installed."""

    def __init__(self) -> None:
        self._cv2 = _opencv()
        # The search goes on from stripe to neighbouring stripe, one for each thread: with one
        # thread the figures are the same on every machine.
        self._cv2.setNumThreads(1)
        self._search = self._cv2.DISOpticalFlow_create(self._cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def between(self, before: Frame, after: Frame) -> Field:
        """The flow that best explains `after` by `before`, sensible or not.

        Right within a tenth from half a pixel on; shorter ones come out up to a fifth too long.
        """
        grey = (self._cv2.cvtColor(frame, self._cv2.COLOR_RGB2GRAY) for frame in (before, after))
        found: Field = self._search.calc(*grey, None)
        return found

    def warp(self, picture: NDArray[Any], flow: Field) -> tuple[NDArray[Any], Mask]:
        """What lies in `picture` where `flow` points to; False where that is outside of it."""
        height, width = flow.shape[:2]
        y, x = np.mgrid[:height, :width].astype(np.float32)
        to_x, to_y = x + flow[..., 0], y + flow[..., 1]
        inside = (to_x >= 0) & (to_x <= width - 1) & (to_y >= 0) & (to_y <= height - 1)
        return self._cv2.remap(picture, to_x, to_y, self._cv2.INTER_LINEAR), inside

    def consistent(self, forward: Field, backward: Field) -> Mask:
        """Where the flow back leads to where the flow there began.

        That holds for what has moved, and hardly anywhere for noise or a picture that fades into
        another, which can only be explained by flows that contradict each other.
        """
        back, inside = self.warp(backward, forward)
        missed = np.linalg.norm(forward + back, axis=-1)
        found: Mask = missed < TRUST[0] + TRUST[1] * np.linalg.norm(forward, axis=-1)
        return inside & found


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise SvdError(
            "Motion is measured with OpenCV, which is not installed: run "
            "`pip install opencv-python-headless`, or install all of tests/requirements.txt."
        ) from error
    return cv2
