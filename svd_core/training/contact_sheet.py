"""Contact sheet: a row of frames for each photo, for people to judge."""

from pathlib import Path

from PIL import Image, ImageDraw

from svd_core.errors import SvdError
from svd_core.types import Frames

FRAMES = (0, 4, 9, 13)
BUCKETS = (127, 223)

CELL = (256, 144)
GAP = 4
HEAD = 16
"""Pixels for the line of text above the columns."""


class ContactSheet:
    """Collects small pictures of clips for `path`. Raises `SvdError` if that has no folder."""

    def __init__(self, path: Path) -> None:
        if not path.absolute().parent.is_dir():
            raise SvdError(f"There is no folder {path.parent} to write the contact sheet into.")
        if path.suffix.lower() not in (".png", ".jpg"):
            raise SvdError(f"The contact sheet must be called .png or .jpg, not {path.name}.")
        self._path = path
        self._rows: dict[str, dict[tuple[int, int], Image.Image]] = {}

    def add(self, name: str, bucket: int, frames: Frames) -> None:
        """Take up a clip of the photo `name`; one of another bucket is not for this sheet."""
        if bucket not in BUCKETS:
            return
        for number in FRAMES:
            picture = Image.fromarray(frames[min(number, len(frames) - 1)])
            picture.thumbnail(CELL)
            self._rows.setdefault(name, {})[bucket, number] = picture

    def save(self) -> None:
        columns = [(bucket, number) for bucket in BUCKETS for number in FRAMES]
        width, height = CELL[0] + GAP, CELL[1] + GAP
        sheet = Image.new("RGB", (len(columns) * width, HEAD + len(self._rows) * height), "white")
        draw = ImageDraw.Draw(sheet)
        for column, (bucket, number) in enumerate(columns):
            draw.text((column * width, 2), f"bucket {bucket}, frame {number}", fill="black")
            for row, pictures in enumerate(self._rows.values()):
                if (bucket, number) in pictures:
                    place = (column * width, HEAD + row * height)
                    sheet.paste(pictures[bucket, number], place)
        sheet.save(self._path)
