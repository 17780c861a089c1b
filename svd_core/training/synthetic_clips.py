"""Synthetic clips with known motion: a photo under a moving camera.

The camera looks at a part of the photo and stays inside, so nothing has to be invented. Where it
goes is the seed's, how fast is the bucket's and the fps's: a perfect model of that kind of motion.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from svd_core.media.image import Box, Size, crop_box
from svd_core.params import VideoParams
from svd_core.types import Frames

ROOM = 0.8
"""Share of the photo's sides, once cropped to shape, that the camera sees; the rest is its way."""

PAN = 0.004
"""Way in one frame at bucket 127 and 7 fps, as a share of the sides of what is seen."""

ZOOM = 0.002
"""Largest change of what is seen in the same time, as a share of it."""


@dataclass(frozen=True)
class SyntheticCamera:
    """Ways in one frame at bucket 127 and 7 fps: to the right and down as shares of the sides of
    what is seen, and `zoom`, the logarithm of how much smaller that becomes."""

    right: float
    down: float
    zoom: float

    @classmethod
    def random(cls, seed: int) -> "SyntheticCamera":
        generator = np.random.default_rng(seed)
        angle = generator.uniform(0, 2 * math.pi)
        zoom = generator.uniform(-ZOOM, ZOOM)
        return cls(PAN * math.cos(angle), PAN * math.sin(angle), zoom)

    def view(self, photo: Size, size: Size, at: float) -> Box:
        """The part of `photo` seen after `at` of these frames, 0 being the middle of the way."""
        left, top, right, bottom = crop_box(photo, size)
        width, height = (right - left) * ROOM, (bottom - top) * ROOM
        x = (left + right) / 2 + at * self.right * width
        y = (top + bottom) / 2 + at * self.down * height
        half_width, half_height = (side / 2 * math.exp(-at * self.zoom) for side in (width, height))
        box = x - half_width, y - half_height, x + half_width, y + half_height
        if box[0] < left or box[1] < top or box[2] > right or box[3] > bottom:
            raise ValueError(f"the camera leaves the photo after {at:.1f} frames")
        return box


def speed(params: VideoParams) -> float:
    """1 at bucket 127 and 7 fps. Frames that follow each other faster show less motion each."""
    return params.motion_bucket_id / 127 * 7 / params.fps


def true_clip(
    photo: Image.Image, camera: SyntheticCamera, size: Size, params: VideoParams, num_frames: int
) -> Frames:
    """The clip that `camera` takes of `photo`."""
    pace = speed(params)
    times = [pace * (t - (num_frames - 1) / 2) for t in range(num_frames)]
    return np.stack(
        [
            np.asarray(photo.resize(size, Resampling.LANCZOS, box=camera.view(photo.size, size, t)))
            for t in times
        ]
    )
