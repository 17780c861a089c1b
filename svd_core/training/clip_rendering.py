"""Rendering of training clips: a photo before a moving camera, with parallax by depth.

What drifts does so beside that. Where to is written in the noise, as `motion_model` reads it.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.training.architecture import PATCH
from svd_core.training.motion_model import motion, places


def render(
    photo: Tensor, near: Tensor, drift: Tensor, noise: Tensor, motion_bucket_id: float, fps: float
) -> Tensor:
    """Frames (num_frames, 3, height, width) of `photo` (3, height, width); frame 0 is the photo.

    `near`, `drift`: (height / 4, width / 4) in 0..1. `noise`: (num_frames, channels, height / 4,
    width / 4). Nothing comes from beyond the edges: the answer depends on what the model sees.
    """
    num_frames, _, rows, columns = noise.shape
    from_x, from_y = places(motion(noise, motion_bucket_id, fps), near, drift)
    moved = torch.stack(
        [from_x - torch.arange(columns), from_y - torch.arange(rows)[:, None]], dim=1
    )
    moved = PATCH * F.interpolate(moved, scale_factor=float(PATCH), mode="bilinear")
    _, height, width = photo.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    here = torch.stack([x, y], dim=-1) + moved.permute(0, 2, 3, 1)
    frames = F.grid_sample(
        photo.expand(num_frames, -1, -1, -1),
        (here + 0.5) * 2 / torch.tensor([width, height]) - 1,
        mode="bicubic",
        padding_mode="reflection",
        align_corners=False,
    )
    return frames.clamp(-1, 1)
