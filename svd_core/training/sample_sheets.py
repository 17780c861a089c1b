"""Sample sheets: frames of the evaluation, of the training so far, and of the example videos.

`python -m svd_core.training.sample_sheets` draws the contact sheet of the model card.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from svd_core.checkpoints.table import ASSETS
from svd_core.errors import ToolFailed
from svd_core.media.video import read_frames
from svd_core.training import architecture, depth_net
from svd_core.training.dataset import EXAMPLES, random_crop
from svd_core.training.vae import decode, encode
from svd_core.types import Frames

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
        """Add a clip of the photo `name`, unless its bucket is none of `SHEET_BUCKETS`."""
        if bucket not in SHEET_BUCKETS:
            return
        for number in SHEET_FRAMES:
            picture = Image.fromarray(frames[min(number, len(frames) - 1)])
            picture.thumbnail(CONTACT_CELL)
            self._rows.setdefault(name, {})[bucket, number] = picture

    def save(self) -> None:
        columns = [(bucket, number) for bucket in SHEET_BUCKETS for number in SHEET_FRAMES]
        width, height = CONTACT_CELL[0] + CELL_GAP, CONTACT_CELL[1] + CELL_GAP
        sheet = Image.new(
            "RGB", (len(columns) * width, HEAD_HEIGHT + len(self._rows) * height), "white"
        )
        draw = ImageDraw.Draw(sheet)
        for column, (bucket, number) in enumerate(columns):
            draw.text((column * width, 2), f"bucket {bucket}, frame {number}", fill="black")
            for row, pictures in enumerate(self._rows.values()):
                if (bucket, number) in pictures:
                    place = (column * width, HEAD_HEIGHT + row * height)
                    sheet.paste(pictures[bucket, number], place)
        sheet.save(self._path)


if TYPE_CHECKING:
    from svd_core.training.stages import TrainingContext

SAMPLES = 4
SHEET = ASSETS / "svd-nano" / "sheet.jpg"
EXAMPLE_CELL = (256, 256)
"""Pixels that a frame of the examples is reduced to."""


@torch.no_grad()
def draw_sample(context: "TrainingContext", path: Path) -> None:
    """Write a sheet of the averaged weights that were saved last to `path`.

    Each row has a photo, its latents decoded, and the depth and drift that the depth net predicts.
    """
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
        decoded = decode(nets["vae"].decoder, latents, linear=False)
        rows.append(torch.cat([crop, decoded, *maps], dim=3)[0])
    _picture(torch.cat(rows, dim=1)).save(path)


def _picture(pixels: Tensor) -> Image.Image:
    bytes_ = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(bytes_.permute(1, 2, 0).contiguous().numpy())


def draw_examples(folder: Path = EXAMPLES, path: Path = SHEET) -> None:
    """Write frames of every video in `folder` to `path`, one row per video."""
    rows = []
    for video in sorted(folder.glob("*.mp4")):
        frames = read_frames(video)
        pictures = [Image.fromarray(frames[number]) for number in SHEET_FRAMES]
        for picture in pictures:
            picture.thumbnail(EXAMPLE_CELL)
        rows.append(np.concatenate([np.asarray(picture) for picture in pictures], axis=1))
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0))) for row in rows]
    Image.fromarray(np.concatenate(rows)).save(path, quality=85)


if __name__ == "__main__":
    draw_examples()
