"""Dataset: free photos from Debian packages, read for training and for evaluation.

Training never reads photos of the evaluation. Depth annotations are polygons drawn by hand, which
say what is near and what may drift.
"""

import csv
import hashlib
import logging
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image, ImageDraw
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.checkpoints.table import ASSETS
from svd_core.errors import SvdError, ToolFailed
from svd_core.media.image import open_photo

LONG_SIDE = 1280
"""Pixels. Larger photos are reduced: that saves memory, and keeps crops sharp."""

SOURCES = Path(__file__).with_name("data") / "photos.tsv"
EXAMPLES = ASSETS / "examples"

Use = Literal["training", "evaluation"]
"""Use of a photo."""

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
    """SHA-256 of every photo of the evaluation: those of the list and the examples."""
    examples = (path.read_bytes() for path in EXAMPLES.iterdir())
    return frozenset(
        [source.sha256 for source in sources("evaluation")]
        + [hashlib.sha256(data).hexdigest() for data in examples]
    )


def fetch_photos(folder: Path, use: Use = "training") -> None:
    """Download the photos of `sources(use)` that `folder` lacks, from their packages by apt-get.

    Needs Debian or Ubuntu, no root. Raises `SvdError` if a package cannot be downloaded, or if the
    hash of a photo is not that of the list.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [source for source in sources(use) if not _is_present(source, folder)]
    with tempfile.TemporaryDirectory() as scratch:
        for package in sorted({source.package for source in missing}):
            try:
                _run("apt-get", "download", package, folder=scratch)
                archive = next(Path(scratch).glob(f"{package}_*.deb"))
                _run("dpkg-deb", "-x", str(archive), scratch, folder=scratch)
            except (OSError, subprocess.CalledProcessError, StopIteration) as error:
                raise ToolFailed(
                    f"The package {package} could not be downloaded with apt-get; "
                    "use your own photos in the folder instead."
                ) from error
        for source in missing:
            copy = Path(scratch) / source.path.lstrip("/")
            data = copy.read_bytes() if copy.is_file() else b""
            if hashlib.sha256(data).hexdigest() != source.sha256:
                raise ToolFailed(f"{source.path} of {source.package} is not the photo of the list.")
            (folder / source.file).write_bytes(data)


def _is_present(source: Source, folder: Path) -> bool:
    path = folder / source.file
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == source.sha256


def _run(*command: str, folder: str) -> None:
    subprocess.run(command, cwd=folder, check=True)  # noqa: S603  # fixed words and our own list


def load_photos(folder: Path) -> dict[str, Tensor]:
    """Read the photos of `folder` for training: uint8 (3, height, width), in order of file name.

    Keys are the first 12 digits of the SHA-256. Unreadable photos and those of `held_out_sources`,
    under any name, are skipped and named in the log. Raises `SvdError` if none is left.
    """
    photos = {}
    held_out = held_out_sources()
    for path in sorted(folder.iterdir()):
        try:
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            if digest in held_out:
                log.warning("%s skipped: it is kept for the evaluation", path.name)
                continue
            photo = open_photo(data)
        except (SvdError, OSError) as error:
            log.warning("%s skipped: %s", path.name, error)
            continue
        photo.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
        photos[digest[:12]] = torch.from_numpy(np.array(photo)).permute(2, 0, 1).contiguous()
    if not photos:
        raise ToolFailed(f"No photo could be read in {folder}; put JPEG or PNG files there.")
    return photos


def with_depth_annotations(photos: dict[str, Tensor]) -> list[Tensor]:
    """`photos` with depth annotations as channels 3 (near) and 4 (drift): uint8 (5, height, width).

    As channels, they are cropped and mirrored with the photo. Photos without any are left out.
    """
    annotations = load_annotations()
    scenes = []
    for name, photo in photos.items():
        if name in annotations:
            drawn = torch.stack(draw_annotations(annotations[name], photo.shape[2], photo.shape[1]))
            scenes.append(torch.cat([photo, (255 * drawn).round().to(torch.uint8)]))
    return scenes


def random_crop(
    photo: Tensor, size: tuple[int, int], generator: torch.Generator, smallest: float = 0.35
) -> Tensor:
    """Crop `photo` at a random place and scale, as float (channels, height, width) in [-1, 1].

    `size`: (width, height) of the result. The crop covers between `smallest` and all of what fits.
    It is never enlarged by more than a quarter, and is mirrored half of the time.
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


# Evaluation


@dataclass(frozen=True)
class EvalPhoto:
    """A photo of the evaluation. `name`: its name in reports. `data`: content of its file."""

    name: str
    data: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def opened(self) -> Image.Image:
        """Open the photo again each time, since all of them together would take half a gigabyte."""
        return open_photo(self.data)


def example_photos() -> list[EvalPhoto]:
    """Example photos of the project. Raises `SvdError` where they are missing."""
    paths = sorted(path for path in EXAMPLES.glob("*") if path.suffix in (".jpg", ".png"))
    if not paths:
        raise ToolFailed(f"There is no example photo in {EXAMPLES}; take them from the repository.")
    return [EvalPhoto(path.stem, path.read_bytes()) for path in paths]


def listed_photos(folder: Path | None) -> list[EvalPhoto]:
    """Photos of the list that are for evaluation, from `folder`.

    Raises `SvdError` for one that is missing or has another hash.
    """
    photos = []
    for source in sources("evaluation"):
        path = Path(source.path)
        # KDE names the file by its size, three folders below the photo's name.
        name = path.parents[2].name if re.fullmatch(r"\d+x\d+", path.stem) else path.stem
        if folder is None:
            raise ToolFailed(
                f"The photo {name} and others are needed: name a folder for them with --photos and "
                "add --fetch, or try --quick, which uses two examples."
            )
        file = folder / source.file
        if not file.is_file():
            raise ToolFailed(f"The photo {file} ({name}) is missing; --fetch downloads it.")
        if not _is_present(source, folder):
            raise ToolFailed(f"{file} is not the photo {name} of the list; --fetch replaces it.")
        photos.append(EvalPhoto(name, file.read_bytes()))
    return photos


def evenly_spaced(photos: list[EvalPhoto], count: int) -> list[EvalPhoto]:
    """Choose `count` of `photos`, evenly spaced over the whole list."""
    return photos[:: max(1, len(photos) // count)][:count]


# Depth annotations


ANNOTATIONS = Path(__file__).with_name("data") / "depth_annotations.json"
"""Shapes by the first 12 digits of a photo's SHA-256, painted from far to near."""

Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]
Point = tuple[Fraction, Fraction]


def _pair(near: object) -> object:
    return near if isinstance(near, list | tuple) else (near, near)


@pydantic_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DepthShape:
    """A polygon with points (x, y) as fractions of the photo's width and height.

    `near`: at its highest and lowest point and linear between them; 0 is the horizon, 1 touches the
    camera. `drift`: 1 for things that drift freely (clouds, water, smoke), 0.5 for things that sway
    (leaves, cloth, animals), 0 for solid things.
    """

    near: Annotated[tuple[Fraction, Fraction], BeforeValidator(_pair)]
    polygon: Annotated[tuple[Point, ...], Field(min_length=3)]
    drift: Fraction = 0


def _covers_photo(shapes: tuple[DepthShape, ...]) -> tuple[DepthShape, ...]:
    if not shapes or shapes[0].polygon != ((0, 0), (1, 0), (1, 1), (0, 1)):
        raise ValueError("the first shape does not cover the photo")
    return shapes


SHAPES = TypeAdapter(dict[str, Annotated[tuple[DepthShape, ...], AfterValidator(_covers_photo)]])


def load_annotations(path: Path = ANNOTATIONS) -> dict[str, tuple[DepthShape, ...]]:
    """Read the shapes of every photo, by the first 12 digits of its SHA-256.

    Raises `SvdError`, with the photo's name, for an invalid shape.
    """
    try:
        return SHAPES.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ", ".join(map(str, first["loc"]))
        raise ToolFailed(f"{path.name}: {place}: {first['msg']}.") from error


def draw_annotations(
    shapes: tuple[DepthShape, ...], width: int, height: int
) -> tuple[Tensor, Tensor]:
    """Draw (near, drift), float32 of shape (height, width) in [0, 1], with hard edges.

    A later shape hides what it covers of the earlier ones.
    """
    near, drift = torch.zeros(height, width), torch.zeros(height, width)
    rows = (torch.arange(height)[:, None] + 0.5) / height
    for shape in shapes:
        inside = _inside(shape.polygon, width, height)
        heights = [y for _, y in shape.polygon]
        down = (rows - min(heights)) / max(max(heights) - min(heights), 1 / height)
        top, bottom = shape.near
        near = torch.where(inside, top + (bottom - top) * down.clamp(0, 1), near)
        drift = drift.masked_fill(inside, shape.drift)
    return near, drift


def _inside(polygon: tuple[Point, ...], width: int, height: int) -> Tensor:
    mask = Image.new("L", (width, height))
    # Pillow counts from the middle of the first pixel, a sketch from its outer edge.
    points = [(x * width - 0.5, y * height - 0.5) for x, y in polygon]
    ImageDraw.Draw(mask).polygon(points, fill=1)
    return torch.from_numpy(np.array(mask, dtype=bool))
