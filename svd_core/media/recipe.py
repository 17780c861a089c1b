"""Recipe: generation metadata kept inside a video, enough to make it again from its photo.

Somewhat long: what is written and what is accepted again are one contract.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from svd_core import __version__
from svd_core.errors import InvalidRecipe, InvalidRequest
from svd_core.media.comment import read_comment
from svd_core.media.fingerprint import Weights, checkpoint_identity
from svd_core.media.image import Box, FramedPhoto, Size
from svd_core.params import Fit, Interpolation, VideoParams
from svd_core.types import GenerationResult

FORMAT = 4
"""Raised when a reader of the old format would misunderstand the new one. Format 1 knew neither
`orientation`, which was "auto", nor videos that continue others; up to 2 `speed` was "exact", and
up to 3 `interpolation` was "off"."""

MAX_CLIPS = 6
"""Clips of which one video may be joined."""

MAX_JSON = 2**16
"""Characters of a recipe. One clip takes some 1200."""

LIBRARIES = ("diffusers", "torch", "pillow", "imageio-ffmpeg")
"""Whose versions can change the frames."""

KINDS: Mapping[str, Any] = {
    "params": dict, "size": list, "box": list, "notes": list, "versions": dict,
    "continues": (dict, NoneType),
}  # fmt: skip
"""What fields are in JSON; the others are text."""

# What is written here is shown on pages and compared with names of files and checkpoints, so what
# could be taken for a path, for markup or for more than a name is refused.
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
"""Pixels; of photos and of videos."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """`params`: as used, nothing left to the model, whose name `model` tells. `size`, `fit`, `box`:
    see `image.Framed`.

    `continues`: the recipe of the video to whose end the clip was joined, whose last frame was its
    photo. `source`: hub id, or the name of a local folder; `revision` says which state of a hub id,
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
        source, revision, fingerprint = checkpoint_identity(checkpoint)
        return cls(
            model=checkpoint.name,
            source=source,
            revision=revision,
            fingerprint=fingerprint,
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
        """The recipes of the clips that were joined, in the order in which they play; the first is
        the one made from a photo."""
        return (*(self.continues.clips if self.continues else ()), self)

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """The recipe inside the video at `path`, an export too. Raises `InvalidRecipe`."""
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
        found, number = _parse(text)
        try:
            return _check(found, number)
        except (TypeError, ValueError, OverflowError, InvalidRequest) as error:
            raise InvalidRecipe(
                f"The recipe is damaged or was edited ({str(error).rstrip('.')}); "
                "choose the video as it was made."
            ) from error

    def to_json(self) -> str:
        """One line of JSON, small enough for a tag: about 1 kB."""
        return json.dumps({"format": FORMAT} | _describe(self), ensure_ascii=False)

    def with_interpolation(self, interpolation: Interpolation) -> "Recipe":
        """The recipe of the same frames with those in-between frames."""
        return replace(self, params=replace(self.params, interpolation=interpolation))

    def matches(self, image_bytes: bytes) -> bool:
        """Whether this is the very photo file the video was made from."""
        return self.image_sha256 == hashlib.sha256(image_bytes).hexdigest()

    def made_with(self, checkpoint: Weights) -> bool:
        """Whether `checkpoint` is the one used, same weights included, whatever it is called."""
        return (self.source, self.revision, self.fingerprint) == checkpoint_identity(checkpoint)


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


def _describe(recipe: Recipe) -> dict[str, Any]:
    """What is written. Which model made a clip is said once, beside its settings."""
    told = asdict(recipe)
    clip: dict[str, Any] | None = told
    while clip is not None:
        del clip["params"]["model"]
        clip = clip["continues"]
    return told


def _parse(text: str) -> tuple[dict[str, Any], int]:
    """The JSON object in `text`, and its format, a known one."""
    if len(text) > MAX_JSON:
        raise InvalidRecipe("The recipe is far too long; choose the video as it was made.")
    if not text.lstrip().startswith("{"):
        raise _no_recipe()  # somebody else's comment
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRecipe(
            "The recipe is damaged and cannot be read; choose the video as it was made."
        ) from error
    number = found.pop("format", None)
    if not isinstance(number, int) or number < 1:
        raise _no_recipe()  # other programs keep JSON there too
    if number > FORMAT:
        raise InvalidRecipe(
            f"The recipe is of format {number} and this program reads up to {FORMAT}; "
            "update the program and try again."
        )
    return found, number


def _check(found: dict[str, Any], number: int, clips: int = 1) -> Recipe:
    """Raises `TypeError`, `ValueError`, `OverflowError`, `InvalidRequest` for what does not fit."""
    if number < 2:
        found["continues"] = None
    _check_complete(Recipe, found)
    _check_kinds(found)
    if number < 2:
        found["params"]["orientation"] = "auto"
    if number < 3:
        found["params"]["speed"] = "exact"
    if number < 4:
        found["params"]["interpolation"] = "off"
    if found["params"].setdefault("model", None) is not None:
        raise ValueError("its settings name a model of their own")
    _check_complete(VideoParams, found["params"])
    if clips > MAX_CLIPS:
        raise ValueError(f"more than {MAX_CLIPS} clips are joined")
    previous = found["continues"]
    return Recipe(
        **{f.name: found[f.name] for f in fields(Recipe)}
        | {
            "params": VideoParams.from_mapping(found["params"]),
            "size": _size(found["size"]),
            "box": _box(found["box"]),
            "notes": tuple(found["notes"]),
            "continues": None if previous is None else _check(previous, number, clips + 1),
        }
    )


def _check_kinds(found: dict[str, Any]) -> None:
    for f in fields(Recipe):
        if not isinstance(found[f.name], KINDS.get(f.name, str)):
            raise TypeError(f"{f.name} is of the wrong kind")
    for name, form in TEXTS.items():
        if not re.fullmatch(form, found[name]):
            raise ValueError(f"{name} is none")
    if found["fit"] not in get_args(Fit):
        raise ValueError("fit is neither crop nor pad")
    texts = (*found["notes"], *found["versions"], *found["versions"].values())
    if len(texts) > MAX_NOTES or not all(re.fullmatch(NOTE, text) for text in texts):
        raise ValueError("notes and versions are not short texts")


def _size(found: list[Any]) -> Size:
    width, height = (int(side) for side in found)
    if not 0 < min(width, height) <= max(width, height) <= MAX_SIDE:
        raise ValueError("size is none of a video")
    return width, height


def _box(found: list[Any]) -> Box:
    left, top, right, bottom = (float(edge) for edge in found)
    edges = (left, top, right, bottom)
    if not all(math.isfinite(edge) and -1 <= edge <= MAX_SIDE for edge in edges):
        raise ValueError("box is not within a photo")
    return edges


def _check_complete(kind: type[Recipe] | type[VideoParams], found: dict[str, Any]) -> None:
    """Nothing may be missing: a default in place of what was lost would make another video."""
    if missing := [f.name for f in fields(kind) if f.name not in found]:
        raise ValueError(f"it lacks {', '.join(missing)}")
