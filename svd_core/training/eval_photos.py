"""Evaluation photos: the examples, and listed photos that are held out from training."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from svd_core.errors import SvdError
from svd_core.media.image import open_photo
from svd_core.training.dataset import EXAMPLES, Source, sources


@dataclass(frozen=True)
class EvalPhoto:
    """A photo by the name it is reported under; `data`: its file."""

    name: str
    data: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def opened(self) -> Image.Image:
        """Read anew each time: all of them together would take half a gigabyte."""
        return open_photo(self.data)


def examples() -> list[EvalPhoto]:
    """The photos that come with the project. Raises `SvdError` where they are missing."""
    paths = sorted(path for path in EXAMPLES.glob("*") if path.suffix in (".jpg", ".png"))
    if not paths:
        raise SvdError(f"There is no example photo in {EXAMPLES}; take them from the repository.")
    return [EvalPhoto(path.stem, path.read_bytes()) for path in paths]


def listed_photos(folder: Path | None) -> list[EvalPhoto]:
    """The photos of the list that are for evaluation, from `folder`.

    Raises `SvdError` for one that is missing or has another hash.
    """
    return [_read(source, folder) for source in sources("evaluation")]


def _read(source: Source, folder: Path | None) -> EvalPhoto:
    name = _name(Path(source.path))
    if folder is None:
        raise SvdError(
            f"The photo {name} and others must be fetched first: name a folder for them with "
            "--photos and add --fetch, or try with --quick, which takes two examples."
        )
    path = folder / source.file
    if not path.is_file():
        raise SvdError(f"The photo {path} ({name}) is missing; --fetch brings it there.")
    photo = EvalPhoto(name, path.read_bytes())
    if photo.sha256 != source.sha256:
        raise SvdError(f"{path} is not the photo {name} of the list; --fetch brings that one.")
    return photo


def _name(path: Path) -> str:
    """Of the file; KDE calls that by its size, three folders below the name of the picture."""
    return path.parents[2].name if re.fullmatch(r"\d+x\d+", path.stem) else path.stem


def evenly_spaced(photos: list[EvalPhoto], count: int) -> list[EvalPhoto]:
    """`count` of `photos`, evenly over the whole list."""
    return photos[:: max(1, len(photos) // count)][:count]
