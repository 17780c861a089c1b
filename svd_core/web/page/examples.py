"""Example photos and the videos that were made from them."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Example:
    name: str
    photo: Path
    video: Path


def find_examples(folder: Path) -> list[Example]:
    """Every `<name>.jpg` of `folder` that has its `<name>.mp4`, by name."""
    return [
        Example(photo.stem.replace("_", " ").replace("-", " ").capitalize(), photo, video)
        for photo in sorted(folder.glob("*.jpg"))
        if (video := photo.with_suffix(".mp4")).is_file()
    ]
