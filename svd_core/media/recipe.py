"""Recipe: generation metadata kept inside a video, enough to make it again from its photo.

What is written and what is accepted again are one contract. A checkpoint is kept as its source and
state; the state of a local folder is a fingerprint of its weights.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import NoneType
from typing import Any, Protocol, get_args

from svd_core import __version__
from svd_core.errors import InvalidRecipe, InvalidRequest
from svd_core.media.comment import read_comment
from svd_core.media.image import Box, FramedPhoto, Size
from svd_core.params import Fit, Interpolation, VideoParams
from svd_core.types import GenerationResult

FORMAT = 4
"""Version of the format, raised when a reader of the old one would misunderstand the new one.

Format 1 had no `orientation`, which was "auto", and no videos that continue others. Up to 2 `speed`
was "exact", and up to 3 `interpolation` was "off".
"""

MAX_CLIPS = 6
"""Most clips that one video may be joined from."""

MAX_JSON = 2**16
"""Most characters of a recipe. One clip takes about 1200."""

LIBRARIES = ("diffusers", "torch", "pillow", "imageio-ffmpeg")
"""Packages whose versions can change the frames."""

KINDS: Mapping[str, Any] = {
    "params": dict, "size": list, "box": list, "notes": list, "versions": dict,
    "continues": (dict, NoneType),
}  # fmt: skip
"""JSON types of fields; the others are text."""

# These texts are shown on pages and compared with names of files and checkpoints. So anything that
# could pass for a path, for markup or for more than a name is refused.
NAME = r"(?!\.)[^<>&/\\\x00-\x1f]{1,200}"
TEXTS = {
    "model": NAME,
    "source": rf"{NAME}(/{NAME})?",
    "revision": r"(?!.*\.\.)[\w./-]{0,200}",
    "fingerprint": r"([0-9a-f]{16})?",
    "image_sha256": r"[0-9a-f]{64}",
    "created": r"[\dT:+Z.-]{0,40}",
}
NOTE = r"[^<>\x00-\x1f]{0,500}"
MAX_NOTES = 50
MAX_SIDE = 2**16
"""Longest side of photos and videos in pixels."""

EDGE_BYTES = 2**16
"""Bytes at each end of a file of weights that the fingerprint reads."""


class Weights(Protocol):
    """Checkpoint as a recipe sees it; `table.Checkpoint` is one."""

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def folder(self) -> Path | None: ...


def checkpoint_identity(checkpoint: Weights) -> tuple[str, str, str]:
    """Source, revision, fingerprint. A folder is kept by its name alone: its path is private."""
    folder = checkpoint.folder
    if folder is None:
        return checkpoint.source, checkpoint.revision, ""
    return folder.name, "", fingerprint(folder)


def fingerprint(place: Path) -> str:
    """Hash of the weights and configuration in a folder, or of one file: 16 hexadecimal digits.

    The name, the size and both ends of each file are hashed, not the gigabytes between. Training
    changes every part of the weights, and this takes milliseconds.
    """
    digest = hashlib.sha256()
    folder = place.parent if place.is_file() else place
    inside = (p for p in place.rglob("*") if p.suffix in (".safetensors", ".json"))
    for path in [place] if place.is_file() else sorted(inside):
        with path.open("rb") as file:
            size = path.stat().st_size
            digest.update(f"{path.relative_to(folder).as_posix()} {size} ".encode())
            digest.update(file.read(EDGE_BYTES))
            file.seek(max(0, size - EDGE_BYTES))
            digest.update(file.read(EDGE_BYTES))
    return digest.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Metadata of one clip and of the clips before it.

    `params`: as used, with nothing left to the checkpoint; `model` is its name. `source`: hub id,
    or the name of a local folder. `revision` is the state of a hub id, `fingerprint` that of a
    folder. `size`, `fit`, `box`: see `image.FramedPhoto`. `continues`: the recipe of the video that
    the clip was joined to; its last frame was the photo. `versions`: by package. `created`: UTC,
    ISO 8601.
    """

    model: str
    source: str
    revision: str
    fingerprint: str
    params: VideoParams
    size: Size
    fit: Fit
    box: Box
    image_sha256: str
    notes: tuple[str, ...] = ()
    continues: "Recipe | None" = None
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""

    @classmethod
    def from_clip(
        cls,
        clip: GenerationResult,
        checkpoint: Weights,
        framed: FramedPhoto,
        image_bytes: bytes,
        continues: "Recipe | None" = None,
    ) -> "Recipe":
        """The recipe of `clip`, made by `checkpoint` from `framed`, the photo in `image_bytes`."""
        source, revision, weights_hash = checkpoint_identity(checkpoint)
        return cls(
            model=checkpoint.name,
            source=source,
            revision=revision,
            fingerprint=weights_hash,
            params=replace(clip.params, model=None),
            size=framed.size,
            fit=framed.fit,
            box=framed.box,
            image_sha256=hashlib.sha256(image_bytes).hexdigest(),
            notes=clip.notes,
            continues=continues,
            versions=_versions(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @property
    def clips(self) -> "tuple[Recipe, ...]":
        """The recipes of the joined clips, in playing order; the first was made from a photo."""
        return (*(self.continues.clips if self.continues else ()), self)

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """The recipe inside a video or an export. Raises `InvalidRecipe`."""
        try:
            comment = read_comment(path)
        except InvalidRequest as error:
            raise InvalidRecipe(error.message) from error
        if comment is None:
            raise _no_recipe()
        return cls.from_json(comment)

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """Read what `to_json` wrote; nothing in `text` is trusted. Raises `InvalidRecipe`."""
        values, version = _parse(text)
        try:
            return _check(values, version)
        except InvalidRecipe:
            raise
        except InvalidRequest as error:
            raise _invalid(error.field) from error

    def to_json(self) -> str:
        """One line of JSON, small enough for a tag: about 1 kB."""
        return json.dumps({"format": FORMAT} | _describe(self), ensure_ascii=False)

    def with_interpolation(self, interpolation: Interpolation) -> "Recipe":
        """The recipe of the same frames with other in-between frames."""
        return replace(self, params=replace(self.params, interpolation=interpolation))

    def matches(self, image_bytes: bytes) -> bool:
        """Whether this is exactly the photo file that the video was made from."""
        return self.image_sha256 == hashlib.sha256(image_bytes).hexdigest()

    def made_with(self, checkpoint: Weights) -> bool:
        """Whether `checkpoint` has the source and the weights that were used, under any name."""
        return (self.source, self.revision, self.fingerprint) == checkpoint_identity(checkpoint)


def _versions() -> dict[str, str]:
    """Versions from the records of installed packages; none is imported."""
    versions = {"svd_core": __version__}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _no_recipe() -> InvalidRecipe:
    return InvalidRecipe("recipe_missing")


def _invalid(part: str) -> InvalidRecipe:
    return InvalidRecipe("recipe_invalid", part=part)


def _describe(recipe: Recipe) -> dict[str, Any]:
    """The fields as JSON has them. The model of a clip is only beside its settings."""
    values = asdict(recipe)
    clip: dict[str, Any] | None = values
    while clip is not None:
        del clip["params"]["model"]
        clip = clip["continues"]
    return values


def _parse(text: str) -> tuple[dict[str, Any], int]:
    """The JSON object in `text`, and its format version, which is a known one."""
    if len(text) > MAX_JSON:
        raise InvalidRecipe("recipe_too_long")
    if not text.lstrip().startswith("{"):
        raise _no_recipe()  # the comment of another program
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRecipe("recipe_unreadable") from error
    version = values.pop("format", None)
    if not isinstance(version, int) or version < 1:
        raise _no_recipe()  # other programs keep JSON there too
    if version > FORMAT:
        raise InvalidRecipe("recipe_too_new", format=version, known=FORMAT)
    return values, version


def _check(values: dict[str, Any], version: int, clips: int = 1) -> Recipe:
    """The recipe in `values`, of that format version.

    Raises `InvalidRequest` with the field that does not fit.
    """
    if version < 2:
        values["continues"] = None
    _check_complete(Recipe, values)
    _check_kinds(values)
    if version < 2:
        values["params"]["orientation"] = "auto"
    if version < 3:
        values["params"]["speed"] = "exact"
    if version < 4:
        values["params"]["interpolation"] = "off"
    if values["params"].setdefault("model", None) is not None:
        raise _invalid("model")
    _check_complete(VideoParams, values["params"])
    if clips > MAX_CLIPS:
        raise _invalid("continues")
    previous = values["continues"]
    return Recipe(
        **{f.name: values[f.name] for f in fields(Recipe)}
        | {
            "params": VideoParams.from_mapping(values["params"]),
            "size": _size(values["size"]),
            "box": _box(values["box"]),
            "notes": tuple(values["notes"]),
            "continues": None if previous is None else _check(previous, version, clips + 1),
        }
    )


def _check_kinds(values: dict[str, Any]) -> None:
    for f in fields(Recipe):
        if not isinstance(values[f.name], KINDS.get(f.name, str)):
            raise _invalid(f.name)
    for name, form in TEXTS.items():
        if not re.fullmatch(form, values[name]):
            raise _invalid(name)
    if values["fit"] not in get_args(Fit):
        raise _invalid("fit")
    texts = (*values["notes"], *values["versions"], *values["versions"].values())
    if len(texts) > MAX_NOTES or not all(
        isinstance(text, str) and re.fullmatch(NOTE, text) for text in texts
    ):
        raise _invalid("notes")


def _size(values: list[Any]) -> Size:
    with suppress(TypeError, ValueError, OverflowError):
        width, height = (int(side) for side in values)
        if 0 < min(width, height) <= max(width, height) <= MAX_SIDE:
            return width, height
    raise _invalid("size")


def _box(values: list[Any]) -> Box:
    with suppress(TypeError, ValueError, OverflowError):
        left, top, right, bottom = edges = tuple(float(edge) for edge in values)
        if all(math.isfinite(edge) and -1 <= edge <= MAX_SIDE for edge in edges):
            return left, top, right, bottom
    raise _invalid("box")


def _check_complete(kind: type[Recipe] | type[VideoParams], values: dict[str, Any]) -> None:
    """Nothing may be missing: a default in place of what was lost would make another video."""
    if missing := [f.name for f in fields(kind) if f.name not in values]:
        raise _invalid(missing[0])
