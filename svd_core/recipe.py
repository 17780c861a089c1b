"""What made a video, kept inside it: enough to make it again from its photo, frame by frame."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, get_args

from svd_core import __version__
from svd_core.clip import Clip
from svd_core.errors import InvalidRecipe, InvalidRequest
from svd_core.image import Box, Framed, Size
from svd_core.params import Fit, VideoParams
from svd_core.video import read_comment

FORMAT = 1
"""Raised when a reader of the old format would misunderstand the new one."""

LIBRARIES = ("diffusers", "torch", "pillow", "imageio-ffmpeg")
"""Whose versions can change the frames."""

KINDS = {"params": dict, "size": list, "box": list, "notes": list, "versions": dict}
"""What fields are in JSON; the others are text."""

EDGE = 2**16
"""Bytes at each end of a file of weights that the fingerprint reads."""


class Weights(Protocol):
    """What a recipe keeps of a checkpoint; `models.Checkpoint` is one."""

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def folder(self) -> Path | None: ...


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """`params`: as used, nothing left to the model. `size`, `fit`, `box`: see `image.Framed`.

    `source`: hub id, or the name of a local folder; `revision` says which state of a hub id,
    `fingerprint` which of a folder. `created`: UTC, ISO 8601. `versions`: by package.
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
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""

    @classmethod
    def of(cls, clip: Clip, checkpoint: Weights, framed: Framed, image_bytes: bytes) -> "Recipe":
        """The recipe of `clip`, made by `checkpoint` from `framed`, the photo in `image_bytes`."""
        source, revision, fingerprint = _identity(checkpoint)
        return cls(
            model=checkpoint.name,
            source=source,
            revision=revision,
            fingerprint=fingerprint,
            params=clip.params,
            size=framed.size,
            fit=framed.fit,
            box=framed.box,
            image_sha256=hashlib.sha256(image_bytes).hexdigest(),
            notes=clip.notes,
            versions=_versions(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """The recipe inside the video at `path`. Raises `InvalidRecipe`."""
        try:
            comment = read_comment(path)
        except InvalidRequest as error:
            raise InvalidRecipe(error.message) from error
        if comment is None:
            raise _no_recipe()
        return cls.from_json(comment)

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """What `to_json` gave. Raises `InvalidRecipe`; nothing in `text` is trusted."""
        found = _parsed(text)
        try:
            return _checked(found)
        except (TypeError, ValueError, OverflowError, InvalidRequest) as error:
            raise InvalidRecipe(
                f"The recipe is damaged or was edited ({str(error).rstrip('.')}); "
                "choose the video as it was made."
            ) from error

    def to_json(self) -> str:
        """One line of JSON, small enough for a tag: about 1 kB."""
        return json.dumps({"format": FORMAT} | asdict(self), ensure_ascii=False)

    def matches(self, image_bytes: bytes) -> bool:
        """Whether this is the very photo file the video was made from."""
        return self.image_sha256 == hashlib.sha256(image_bytes).hexdigest()

    def made_with(self, checkpoint: Weights) -> bool:
        """Whether `checkpoint` is the one used, same weights included, whatever it is called."""
        return (self.source, self.revision, self.fingerprint) == _identity(checkpoint)


def _identity(checkpoint: Weights) -> tuple[str, str, str]:
    """Source, revision, fingerprint. Of a folder only the name is told: its path is private."""
    folder = checkpoint.folder
    if folder is None:
        return checkpoint.source, checkpoint.revision, ""
    return folder.name, "", fingerprint(folder)


def fingerprint(folder: Path) -> str:
    """Short hash of the weights in `folder` and how they are wired: 16 hexadecimal digits.

    Of each file of weights its name, its size and both ends are hashed, not the gigabytes between:
    training moves all of them, and this takes milliseconds.
    """
    found = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json")):
        with path.open("rb") as file:
            size = path.stat().st_size
            found.update(f"{path.relative_to(folder).as_posix()} {size} ".encode())
            found.update(file.read(EDGE))
            file.seek(max(0, size - EDGE))
            found.update(file.read(EDGE))
    return found.hexdigest()[:16]


def _versions() -> dict[str, str]:
    """Read from the installed packages' records; none is imported for it."""
    found = {"svd_core": __version__}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _no_recipe() -> InvalidRecipe:
    return InvalidRecipe(
        "The video carries no recipe; choose an mp4 made by this program, as it was downloaded: "
        "editors and messengers drop it."
    )


def _parsed(text: str) -> dict[str, Any]:
    """The JSON object in `text`, of a known format."""
    if not text.lstrip().startswith("{"):
        raise _no_recipe()  # somebody else's comment
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRecipe(
            "The recipe is damaged and cannot be read; choose the video as it was made."
        ) from error
    number = found.pop("format", None)
    if not isinstance(number, int):
        raise _no_recipe()  # other programs keep JSON there too
    if number > FORMAT:
        raise InvalidRecipe(
            f"The recipe is of format {number} and this program reads up to {FORMAT}; "
            "update the program and try again."
        )
    return found  # type: ignore[no-any-return]  # text that begins with { parses to an object


def _checked(found: dict[str, Any]) -> Recipe:
    """Raises `TypeError`, `ValueError`, `OverflowError`, `InvalidRequest` for what does not fit."""
    _check_complete(Recipe, found)
    for f in fields(Recipe):
        if not isinstance(found[f.name], KINDS.get(f.name, str)):
            raise TypeError(f"{f.name} is of the wrong kind")
    _check_complete(VideoParams, found["params"])
    if found["fit"] not in get_args(Fit):
        raise ValueError("fit is neither crop nor pad")
    if not all(isinstance(text, str) for text in (*found["notes"], *found["versions"].values())):
        raise TypeError("notes and versions are text")
    width, height = found["size"]
    left, top, right, bottom = (float(edge) for edge in found["box"])
    if not all(map(math.isfinite, (left, top, right, bottom))):
        raise ValueError("box is not finite")
    return Recipe(
        **{f.name: found[f.name] for f in fields(Recipe)}
        | {
            "params": VideoParams.from_mapping(found["params"]),
            "size": (int(width), int(height)),
            "box": (left, top, right, bottom),
            "notes": tuple(found["notes"]),
        }
    )


def _check_complete(kind: type[Recipe] | type[VideoParams], found: dict[str, Any]) -> None:
    """Nothing may be missing: a default in place of what was lost would make another video."""
    if missing := [f.name for f in fields(kind) if f.name not in found]:
        raise ValueError(f"it lacks {', '.join(missing)}")
