"""Recipe: generation metadata kept inside a video, enough to make it again from its photo.

The same fields are written and checked when they are read. A checkpoint is kept as its source and
state; the state of a local folder is a fingerprint of its weights.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError

from svd_core import __version__
from svd_core.errors import InvalidRecipe, InvalidRequest
from svd_core.media.comment import read_comment
from svd_core.media.image import FramedPhoto
from svd_core.params import PARAMETERS, Fit, Interpolation, VideoParams
from svd_core.types import GenerationResult

FORMAT = 4
"""Version of the format, raised when a reader of the old one would misunderstand the new one.
Format 1 had no videos that continue others."""

ADDED_SETTINGS: Mapping[int, Mapping[str, str]] = {
    2: {"orientation": "auto"},
    3: {"speed": "exact"},
    4: {"interpolation": "off"},
}
"""Settings by the format that added them, with the value that every older recipe means."""

MAX_CLIPS = 6
"""Most clips that one video may be joined from."""

MAX_JSON = 2**16
"""Most characters of a recipe. One clip takes about 1200."""

LIBRARIES = ("diffusers", "torch", "pillow", "imageio-ffmpeg")
"""Packages whose versions can change the frames."""

MAX_NOTES = 50
MAX_SIDE = 2**16
"""Longest side of photos and videos in pixels."""

# These texts are shown on pages and compared with names of files and checkpoints. So anything that
# could pass for a path, for markup or for more than a name is refused.
NAME = r"(?!\.)[^<>&/\\\x00-\x1f]{1,200}"
Name = Annotated[str, Field(pattern=rf"\A{NAME}\Z")]
Source = Annotated[str, Field(pattern=rf"\A{NAME}(/{NAME})?\Z")]
Revision = Annotated[str, Field(pattern=r"\A(?!.*\.\.)[\w./-]{0,200}\Z")]
Fingerprint = Annotated[str, Field(pattern=r"\A([0-9a-f]{16})?\Z")]
Sha256 = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\Z")]
Time = Annotated[str, Field(pattern=r"\A[\dT:+Z.-]{0,40}\Z")]
Note = Annotated[str, Field(pattern=r"\A[^<>\x00-\x1f]{0,500}\Z")]
Side = Annotated[int, Field(gt=0, le=MAX_SIDE)]
Edge = Annotated[float, Field(ge=-1, le=MAX_SIDE, allow_inf_nan=False)]

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


def _read_params(values: Any) -> VideoParams:
    """The settings of a clip. All must be there, since a default would give another video."""
    if not isinstance(values, dict):
        raise _invalid("params")
    for name in PARAMETERS.keys() - {"model"}:
        if name not in values:
            raise _invalid(name)
    return VideoParams.from_mapping(values)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Metadata of one clip and of the clips before it.

    `params`: as used, with nothing left to the checkpoint; `model` is its name. `source`: hub id,
    or the name of a local folder. `revision` is the state of a hub id, `fingerprint` that of a
    folder. `size`, `fit`, `box`: see `image.FramedPhoto`. `continues`: the recipe of the video that
    the clip was joined to; its last frame was the photo. `versions`: by package. `created`: UTC,
    ISO 8601.
    """

    __pydantic_config__ = ConfigDict(regex_engine="python-re")

    model: Name
    source: Source
    revision: Revision
    fingerprint: Fingerprint
    params: Annotated[VideoParams, PlainValidator(_read_params)]
    size: tuple[Side, Side]
    fit: Fit
    box: tuple[Edge, Edge, Edge, Edge]
    image_sha256: Sha256
    notes: Annotated[tuple[Note, ...], Field(max_length=MAX_NOTES)]
    continues: "Recipe | None"
    versions: Annotated[dict[Note, Note], Field(max_length=MAX_NOTES)]
    created: Time

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
            raise InvalidRecipe("recipe_missing")
        return cls.from_json(comment)

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """Read what `to_json` wrote; nothing in `text` is trusted. Raises `InvalidRecipe`."""
        values, version = _parse(text)
        _upgrade(values, version)
        try:
            return _ADAPTER.validate_python(values)
        except ValidationError as error:
            place = error.errors(include_url=False, include_context=False)[0]["loc"]
            part = next((str(each) for each in place if each != "continues"), "continues")
            raise _invalid(part) from error
        except InvalidRecipe:
            raise
        except InvalidRequest as error:
            raise _invalid(error.field) from error

    def to_json(self) -> str:
        """One line of JSON, small enough for a tag: about 1 kB."""
        values = asdict(self)
        clip: dict[str, Any] | None = values
        while clip is not None:  # the model of a clip is only beside its settings
            del clip["params"]["model"]
            clip = clip["continues"]
        return json.dumps({"format": FORMAT} | values, ensure_ascii=False)

    def with_interpolation(self, interpolation: Interpolation) -> "Recipe":
        """The recipe of the same frames with other in-between frames."""
        return replace(self, params=replace(self.params, interpolation=interpolation))

    def matches(self, image_bytes: bytes) -> bool:
        """Whether this is exactly the photo file that the video was made from."""
        return self.image_sha256 == hashlib.sha256(image_bytes).hexdigest()

    def made_with(self, checkpoint: Weights) -> bool:
        """Whether `checkpoint` has the source and the weights that were used, under any name."""
        return (self.source, self.revision, self.fingerprint) == checkpoint_identity(checkpoint)


_ADAPTER = TypeAdapter(Recipe)


def _versions() -> dict[str, str]:
    """Versions from the records of installed packages; none is imported."""
    versions = {"svd_core": __version__}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _invalid(part: str) -> InvalidRecipe:
    return InvalidRecipe("recipe_invalid", part=part)


def _parse(text: str) -> tuple[dict[str, Any], int]:
    """The JSON object in `text`, and its format version, which is a known one."""
    if len(text) > MAX_JSON:
        raise InvalidRecipe("recipe_too_long")
    if not text.lstrip().startswith("{"):
        raise InvalidRecipe("recipe_missing")  # the comment of another program
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRecipe("recipe_unreadable") from error
    version = values.pop("format", None)
    if not isinstance(version, int) or version < 1:
        raise InvalidRecipe("recipe_missing")  # other programs keep JSON there too
    if version > FORMAT:
        raise InvalidRecipe("recipe_too_new", format=version, known=FORMAT)
    return values, version


def _upgrade(values: dict[str, Any], version: int) -> None:
    """Give the clips of an older format what it lacked. Raises `InvalidRecipe` for a part that no
    format lacked, for a model among the settings, and for too many clips."""
    clip: Any = values
    for _ in range(MAX_CLIPS):
        if not isinstance(clip, dict):
            return
        if version < 2:
            clip["continues"] = None
        for part in fields(Recipe):
            if part.name not in clip:
                raise _invalid(part.name)
        params = clip["params"]
        if isinstance(params, dict):
            for number, settings in ADDED_SETTINGS.items():
                params |= settings if version < number else {}
            if params.get("model") is not None:
                raise _invalid("model")
        clip = clip["continues"]
    if clip is not None:
        raise _invalid("continues")
