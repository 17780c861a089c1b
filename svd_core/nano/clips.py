"""Training clips: a photo moved under a camera whose direction is written in the noise.

A video model has to choose a motion; from pure noise the best answer to an unknown choice is a
blur. So the choice is tied to the noise, as `steering` reads it: photo, noise and settings then
determine the clip, seeds stay meaningful, and one sampling step is enough.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.nano.operators import KNOT_STEP, KNOTS
from svd_core.nano.steering import CELLS, FRAMES, MOTION_CHANNELS, PIXELS_PER_FRAME

FARTHEST = (2 * KNOTS * KNOT_STEP, KNOTS * KNOT_STEP)
"""Pixels (x, y) at which a displacement ends: what the net's shifts reach."""


@dataclass(frozen=True)
class Motion:
    """Camera motion of a clip: pixels a frame to the right and down."""

    x: float
    y: float


def speed(motion_bucket_id: float, fps: float) -> float:
    """1 at bucket 127 and 7 fps. The bucket is a speed: more frames a second move less each."""
    return motion_bucket_id / 127 * 7 / fps


def motion_of(noise: Tensor, motion_bucket_id: float, fps: float) -> Motion:
    """The motion that `noise`, shape (num_frames, channels, height, width), stands for."""
    deviations = (float(noise[:, c].mean()) * (CELLS * FRAMES) ** 0.5 for c in MOTION_CHANNELS)
    pace = speed(motion_bucket_id, fps)
    x, y = (d * unit * pace for d, unit in zip(deviations, PIXELS_PER_FRAME, strict=True))
    return Motion(x, y)


def render(photo: Tensor, motion: Motion, num_frames: int) -> Tensor:
    """Frames (num_frames, 3, height, width) of `photo` (3, height, width) in motion; frame 0 is it.

    Beyond its edges the outermost pixels go on: the answer is a function of what the model sees.
    """
    _, height, width = photo.shape
    y = torch.arange(height).float()[None, :, None]
    x = torch.arange(width).float()[None, None, :]
    t = torch.arange(num_frames).float()[:, None, None]
    to_x = (t * motion.x).clamp(-FARTHEST[0], FARTHEST[0])
    to_y = (t * motion.y).clamp(-FARTHEST[1], FARTHEST[1])
    grid_x = (x - to_x + 0.5) * 2 / width - 1
    grid_y = (y - to_y + 0.5) * 2 / height - 1
    shape = (num_frames, height, width)
    frames = F.grid_sample(
        photo.expand(num_frames, -1, -1, -1),
        torch.stack([grid_x.expand(shape), grid_y.expand(shape)], dim=-1),
        mode="bicubic",
        padding_mode="border",
        align_corners=False,
    )
    return frames.clamp(-1, 1)
