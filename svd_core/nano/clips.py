"""Training clips: a photo moved under a camera whose direction is written in the noise.

A video model has to choose a motion; from pure noise the best answer to an unknown choice is a
blur. So the choice is tied to the noise: the means of two of its channels, each exactly normal,
give the direction. Photo, noise and settings then determine the clip, seeds stay meaningful, and
a few sampling steps are enough.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.nano.copying import MOTION_CHANNELS

PIXELS_PER_FRAME = 1.4
"""Mean flow at bucket 127 and 7 fps, in pixels from one frame to the next, at any size."""


def flow_per_frame(motion_bucket_id: float, fps: float) -> float:
    """Mean flow in pixels a frame. The bucket is a speed: more frames a second move less each."""
    return PIXELS_PER_FRAME * motion_bucket_id / 127 * 7 / fps


@dataclass(frozen=True)
class Motion:
    """Camera motion of a clip: pixels a frame to the right and down."""

    x: float
    y: float


def motion_of(noise: Tensor, motion_bucket_id: float, fps: float) -> Motion:
    """The motion that `noise`, shape (num_frames, channels, height, width), stands for."""
    x, y = (float(noise[:, channel].mean()) for channel in MOTION_CHANNELS)
    length = math.hypot(x, y) or 1.0
    speed = flow_per_frame(motion_bucket_id, fps)
    return Motion(speed * x / length, speed * y / length)


def render(photo: Tensor, motion: Motion, num_frames: int) -> Tensor:
    """Frames (num_frames, 3, height, width) of `photo` (3, height, width) in motion; frame 0 is it.

    Beyond its edges the photo is mirrored: the answer stays a function of what the model can see.
    """
    _, height, width = photo.shape
    y = torch.arange(height).float()[None, :, None]
    x = torch.arange(width).float()[None, None, :]
    t = torch.arange(num_frames).float()[:, None, None]
    grid_x = (x - t * motion.x + 0.5) * 2 / width - 1
    grid_y = (y - t * motion.y + 0.5) * 2 / height - 1
    shape = (num_frames, height, width)
    grid = torch.stack([grid_x.expand(shape), grid_y.expand(shape)], dim=-1)
    frames = F.grid_sample(
        photo.expand(num_frames, -1, -1, -1),
        grid,
        mode="bicubic",
        padding_mode="reflection",
        align_corners=False,
    )
    return frames.clamp(-1, 1)
