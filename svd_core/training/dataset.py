"""Dataset: sources of free photos, and a folder of them read into memory."""

import csv
import hashlib
import logging
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.checkpoints.table import ASSETS
from svd_core.errors import SvdError
from svd_core.media.image import open_photo
from svd_core.training.depth_annotations import draw, load_annotations

LONG_SIDE = 1280
"""Pixels; larger photos are reduced, for memory and so that crops show more than blur."""

SOURCES = Path(__file__).with_name("data") / "photos.tsv"
EXAMPLES = ASSETS / "examples"

Use = Literal["training", "evaluation"]
"""What a photo is for. One that figures are taken from is never learnt from."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A photo inside a Debian package, its SHA-256 and the licence its package states."""

    package: str
    path: str
    sha256: str
    licence: str
    use: Use

    @property
    def file(self) -> str:
        """Name of its copy in a folder of photos."""
        return f"{self.sha256[:12]}{Path(self.path).suffix}"


def sources(use: Use | None = None) -> Iterator[Source]:
    """The listed photos, or only those for one `use`. No example is among them."""
    with SOURCES.open(newline="") as table:
        for row in csv.DictReader(table, delimiter="\t"):
            source = Source(**row)  # type: ignore[arg-type]  # a test reads every `use`
            if use in (None, source.use):
                yield source


def held_out_sources() -> frozenset[str]:
    """SHA-256 of every photo that figures are taken from: the list's own and the examples."""
    examples = (path.read_bytes() for path in EXAMPLES.iterdir())
    return frozenset(
        [source.sha256 for source in sources("evaluation")]
        + [hashlib.sha256(data).hexdigest() for data in examples]
    )


def fetch_photos(folder: Path, use: Use = "training") -> None:
    """Bring the photos of `sources(use)` that `folder` lacks, from their packages with apt-get.

    Needs Debian or Ubuntu, no root. Raises `SvdError` if a package cannot be had or a photo is not
    the one the list names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [source for source in sources(use) if not _is_there(source, folder)]
    with tempfile.TemporaryDirectory() as scratch:
        for package in sorted({source.package for source in wanted}):
            try:
                _run("apt-get", "download", package, folder=scratch)
                archive = next(Path(scratch).glob(f"{package}_*.deb"))
                _run("dpkg-deb", "-x", str(archive), scratch, folder=scratch)
            except (OSError, subprocess.CalledProcessError, StopIteration) as error:
                raise SvdError(
                    f"The package {package} could not be downloaded with apt-get; "
                    "use your own photos in the folder instead."
                ) from error
        for source in wanted:
            copy = Path(scratch) / source.path.lstrip("/")
            data = copy.read_bytes() if copy.is_file() else b""
            if hashlib.sha256(data).hexdigest() != source.sha256:
                raise SvdError(f"{source.path} of {source.package} is not the photo of the list.")
            (folder / source.file).write_bytes(data)


def _is_there(source: Source, folder: Path) -> bool:
    path = folder / source.file
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == source.sha256


def _run(*command: str, folder: str) -> None:
    subprocess.run(command, cwd=folder, check=True)  # noqa: S603  # fixed words and our own list


def load_photos(folder: Path) -> dict[str, Tensor]:
    """Every picture of `folder` to learn from, by the first 12 digits of its SHA-256, in order of
    file name: uint8 (3, height, width).

    Unreadable ones and those `held_out_sources`, under any name, are skipped and named in the
    log. Raises `SvdError` if none is left.
    """
    photos = {}
    kept = held_out_sources()
    for path in sorted(folder.iterdir()):
        try:
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            if digest in kept:
                log.warning("%s skipped: it is kept for the evaluation", path.name)
                continue
            photo = open_photo(data)
        except (SvdError, OSError) as error:
            log.warning("%s skipped: %s", path.name, error)
            continue
        photo.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
        photos[digest[:12]] = torch.from_numpy(np.array(photo)).permute(2, 0, 1).contiguous()
    if not photos:
        raise SvdError(f"No photo could be read in {folder}; put JPEG or PNG files there.")
    return photos


def with_depth_annotations(photos: dict[str, Tensor]) -> list[Tensor]:
    """Those of `photos` that have a depth sketch, with it as channels 3 (near) and 4 (drift): uint8
    (5, height, width), so that what crops and mirrors photos does the same to sketches."""
    known = load_annotations()
    found = []
    for name, photo in photos.items():
        if name in known:
            drawn = torch.stack(draw(known[name], photo.shape[2], photo.shape[1]))
            found.append(torch.cat([photo, (255 * drawn).round().to(torch.uint8)]))
    return found


def random_crop(
    photo: Tensor, size: tuple[int, int], generator: torch.Generator, smallest: float = 0.35
) -> Tensor:
    """A crop of `photo` at a random place and scale, as float (channels, height, width) in [-1, 1].

    `size`: (width, height) of the result. The crop covers between `smallest` and all of what fits,
    is never enlarged by more than a quarter, and is mirrored half of the time.
    """
    width, height = size
    fits = min(photo.shape[2] / width, photo.shape[1] / height)
    low = min(max(0.8, smallest * fits), fits)
    scale = low + (fits - low) * float(torch.rand((), generator=generator))
    crop_w, crop_h = int(width * scale), int(height * scale)
    x = int(torch.randint(photo.shape[2] - crop_w + 1, (), generator=generator))
    y = int(torch.randint(photo.shape[1] - crop_h + 1, (), generator=generator))
    crop = photo[None, :, y : y + crop_h, x : x + crop_w].float() / 127.5 - 1
    crop = F.interpolate(crop, (height, width), mode="bilinear", antialias=True)[0]
    return crop.flip(2) if torch.rand((), generator=generator) < 0.5 else crop
