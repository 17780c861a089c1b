"""Sample sheets: pictures of the training so far, and of the example videos at the end.

`python -m svd_core.training.sample_sheets` draws the contact sheet of the model card.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from svd_core.checkpoints.table import ASSETS
from svd_core.media.video import read_frames
from svd_core.training import architecture, decoder_training, depth_net
from svd_core.training.dataset import EXAMPLES, random_crop
from svd_core.training.linear_codec import encode

if TYPE_CHECKING:
    from svd_core.training.stages import TrainingContext

SAMPLES = 4
SHEET = ASSETS / "svd-nano" / "sheet.jpg"
FRAMES = (0, 4, 9, 13)
CELL = (256, 256)
"""Pixels that a frame of the sheet fits into."""


@torch.no_grad()
def draw_sample(context: "TrainingContext", path: Path) -> None:
    """Write a contact sheet to `path`, with the averaged weights as they were last saved: photos,
    what the decoder makes of their latents, and what the scene net finds near and drifting."""
    nets = context.nets()
    generator = torch.Generator().manual_seed(3)
    rows = []
    for photo in context.photos[:: len(context.photos) // SAMPLES + 1]:
        crop = random_crop(photo, architecture.SIZES[0], generator)[None]
        latents = encode(crop, context.kernel)
        seen = depth_net.ChannelSlice(nets["unet"])(latents)
        maps = [seen[:, [depth_net.OUTPUTS[name]] * 3] * 2 - 1 for name in ("near", "drift")]
        maps = [
            part.repeat_interleave(architecture.PATCH, 2).repeat_interleave(architecture.PATCH, 3)
            for part in maps
        ]
        decoded = decoder_training.decode(nets["vae"].decoder, latents, linear=False)
        rows.append(torch.cat([crop, decoded, *maps], dim=3)[0])
    _picture(torch.cat(rows, dim=1)).save(path)


def _picture(pixels: Tensor) -> Image.Image:
    bytes_ = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(bytes_.permute(1, 2, 0).contiguous().numpy())


def draw_examples(folder: Path = EXAMPLES, path: Path = SHEET) -> None:
    """Write frames of every video in `folder` to `path`, a row each."""
    rows = []
    for video in sorted(folder.glob("*.mp4")):
        frames = read_frames(video)
        pictures = [Image.fromarray(frames[number]) for number in FRAMES]
        for picture in pictures:
            picture.thumbnail(CELL)
        rows.append(np.concatenate([np.asarray(picture) for picture in pictures], axis=1))
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0))) for row in rows]
    Image.fromarray(np.concatenate(rows)).save(path, quality=85)


if __name__ == "__main__":
    draw_examples()
