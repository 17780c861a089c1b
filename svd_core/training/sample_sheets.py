"""Sample sheets: frames of the evaluation, of the training so far, and of the example videos.

`python -m svd_core.training.sample_sheets` draws the contact sheet of the model card.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw

from svd_core.checkpoints.table import ASSETS
from svd_core.errors import ToolFailed
from svd_core.media.video import read_frames
from svd_core.training import architecture, depth_net
from svd_core.training.dataset import EXAMPLES, random_crop
from svd_core.training.vae import decode, encode
from svd_core.types import Frames

if TYPE_CHECKING:
    from svd_core.training.stages import TrainingContext

SHEET_FRAMES = (0, 4, 9, 13)
SHEET_BUCKETS = (127, 223)

CONTACT_CELL = (256, 144)
CELL_GAP = 4
HEAD_HEIGHT = 16
"""Pixels of the line of text above the columns."""


class ContactSheet:
    """Contact sheet of an evaluation, written to `path`: one row of frames for each photo.

    Raises `SvdError` if the folder of `path` is missing.
    """

    def __init__(self, path: Path) -> None:
        if not path.absolute().parent.is_dir():
            raise ToolFailed(f"There is no folder {path.parent} to write the contact sheet into.")
        if path.suffix.lower() not in (".png", ".jpg"):
            raise ToolFailed(f"The contact sheet must be called .png or .jpg, not {path.name}.")
        self._path = path
        self._rows: dict[str, dict[tuple[int, int], Image.Image]] = {}

    def add(self, name: str, bucket: int, frames: Frames) -> None:
        """Add a clip of the photo `name`, if its bucket is one of `SHEET_BUCKETS`."""
        for number in SHEET_FRAMES if bucket in SHEET_BUCKETS else ():
            picture = Image.fromarray(frames[min(number, len(frames) - 1)])
            picture.thumbnail(CONTACT_CELL)
            self._rows.setdefault(name, {})[bucket, number] = picture

    def save(self) -> None:
        columns = [(bucket, number) for bucket in SHEET_BUCKETS for number in SHEET_FRAMES]
        width, height = (side + CELL_GAP for side in CONTACT_CELL)
        size = (len(columns) * width, HEAD_HEIGHT + len(self._rows) * height)
        sheet = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(sheet)
        for column, (bucket, number) in enumerate(columns):
            draw.text((column * width, 2), f"bucket {bucket}, frame {number}", fill="black")
            for row, pictures in enumerate(self._rows.values()):
                if (bucket, number) in pictures:
                    place = (column * width, HEAD_HEIGHT + row * height)
                    sheet.paste(pictures[bucket, number], place)
        sheet.save(self._path)


SAMPLES = 4
SHEET = ASSETS / "svd-nano" / "sheet.jpg"
EXAMPLE_CELL = (256, 256)
"""Largest size in pixels of a frame of the examples."""


@torch.no_grad()
def draw_sample(context: "TrainingContext", path: Path) -> None:
    """Write a sheet of the averaged weights saved last to `path`.

    Each row has a photo, its latents decoded, and the depth and drift that the depth net predicts.
    """
    nets, patch = context.nets(), architecture.PATCH
    generator = torch.Generator().manual_seed(3)
    rows = []
    for photo in context.photos[:: len(context.photos) // SAMPLES + 1]:
        crop = random_crop(photo, architecture.SIZES[0], generator)[None]
        latents = encode(crop, context.kernel)
        outputs = depth_net.ChannelSlice(nets["unet"])(latents)
        maps = [outputs[:, [depth_net.OUTPUTS[name]] * 3] * 2 - 1 for name in ("near", "drift")]
        maps = [part.repeat_interleave(patch, 2).repeat_interleave(patch, 3) for part in maps]
        decoded = decode(nets["vae"].decoder, latents, linear=False)
        rows.append(torch.cat([crop, decoded, *maps], dim=3)[0])
    pixels = ((torch.cat(rows, dim=1).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(path)


def draw_examples() -> None:
    """Write frames of every example video to `SHEET`, one row per video."""
    rows = []
    for video in sorted(EXAMPLES.glob("*.mp4")):
        frames = read_frames(video)
        pictures = [Image.fromarray(frames[number]) for number in SHEET_FRAMES]
        for picture in pictures:
            picture.thumbnail(EXAMPLE_CELL)
        rows.append(np.concatenate([np.asarray(picture) for picture in pictures], axis=1))
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0))) for row in rows]
    Image.fromarray(np.concatenate(rows)).save(SHEET, quality=85)


if __name__ == "__main__":
    draw_examples()
