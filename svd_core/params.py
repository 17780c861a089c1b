"""Video parameters: `VideoRequest(image, VideoParams)`, validated against one table of limits.

Somewhat long: the settings, their limits and the ways they are written down are one contract.
"""

import random
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Literal, get_args
from urllib.parse import parse_qsl, urlencode

from svd_core.errors import InvalidRequest

Fit = Literal["crop", "pad"]
Orientation = Literal["auto", "landscape", "portrait", "square"]
Speed = Literal["exact", "fast", "turbo"]
Interpolation = Literal["off", "2x", "4x"]

FACTORS: Mapping[Interpolation, int] = {"off": 1, "2x": 2, "4x": 4}
"""By how much interpolation multiplies the playback rate."""


@dataclass(frozen=True)
class Limit:
    """Closed range of a number, and a line of help that page, command line and README share."""

    minimum: float
    maximum: float
    help: str
    integer: bool = True
    optional: bool = False


# Ranges follow the field: buckets 1..255 and augmentation 0..10 as hosted SVD services take them,
# seeds within 32 bits so that a JavaScript number carries them exactly.
LIMITS: Mapping[str, Limit] = {
    "seed": Limit(0, 2**32 - 1, "same seed, same video"),
    "motion_bucket_id": Limit(1, 255, "how much moves: 40 is calm, 127 usual, 200 lively"),
    "noise_aug_strength": Limit(
        0.0, 10.0, "noise on the photo: more frees the motion and loses likeness", integer=False
    ),
    "fps": Limit(1, 100, "frames per second the motion is made for, and the playback rate"),
    "playback_fps": Limit(1, 100, "playback rate, if it should differ from fps", optional=True),
    "num_frames": Limit(
        2, 50, "length in frames; the model's own number if left out", optional=True
    ),
    "num_inference_steps": Limit(
        1, 100, "denoising steps; the model's own number if left out", optional=True
    ),
    "min_guidance_scale": Limit(
        0.0, 20.0, "guidance at the first frame; the model's own if left out", False, True
    ),
    "max_guidance_scale": Limit(
        0.0, 20.0, "guidance at the last frame; the model's own if left out", False, True
    ),
    "decode_chunk_size": Limit(
        1, 50, "frames decoded at once; planned from the memory if left out", optional=True
    ),
    "focus_x": Limit(0.0, 1.0, "what a crop keeps: 0 the left edge, 1 the right", integer=False),
    "focus_y": Limit(0.0, 1.0, "what a crop keeps: 0 the top edge, 1 the bottom", integer=False),
}


@dataclass(frozen=True)
class Choice:
    """What a setting that is a word may be, and a line of help as in `Limit`."""

    words: tuple[str, ...]
    help: str


CHOICES: Mapping[str, Choice] = {
    "orientation": Choice(
        get_args(Orientation), "shape of the video; auto takes the one nearest to the photo's"
    ),
    "fit": Choice(get_args(Fit), "cut the photo to the shape of the video, or add blurred borders"),
    "speed": Choice(
        get_args(Speed),
        "fast takes half the steps, turbo four with weights of its own; both change the picture",
    ),
    "interpolation": Choice(
        get_args(Interpolation),
        "adds in-between frames for smooth playback: two or four times the rate, up to 100 fps",
    ),
}

MAX_FRAMES = 150
"""Frames of a video that was continued: six clips of SVD-XT, some 270 MB at 1024x576."""

MAX_NAME = 200
"""Characters of a checkpoint's name."""

MAX_QUERY = 4096
"""Characters of a link's settings; all of them take some 400."""


def draw_seed() -> int:
    """A fresh seed from the operating system's entropy, in 0..2^32-1."""
    return random.SystemRandom().randrange(2**32)


@dataclass(frozen=True, kw_only=True)
class VideoParams:
    """Every setting of one video, in diffusers' names; `LIMITS` and `CHOICES` say what they mean.

    None means: take the model's own value. Numbers may come as text ("127") or as whole floats
    (127.0), since forms and JSON send them so. `model`: the checkpoint by the name that the server
    offers it by, which only the server can check; None: its usual one. Raises `InvalidRequest` with
    the field's name.
    """

    seed: int = field(default_factory=draw_seed)
    motion_bucket_id: int = 127
    noise_aug_strength: float = 0.02
    fps: int = 7
    playback_fps: int | None = None
    num_frames: int | None = None
    num_inference_steps: int | None = None
    min_guidance_scale: float | None = None
    max_guidance_scale: float | None = None
    decode_chunk_size: int | None = None
    orientation: Orientation = "auto"
    fit: Fit = "crop"
    focus_x: float = 0.5
    focus_y: float = 0.5
    speed: Speed = "exact"
    interpolation: Interpolation = "off"
    model: str | None = None

    def __post_init__(self) -> None:
        for name, limit in LIMITS.items():
            object.__setattr__(self, name, check_value(name, limit, getattr(self, name)))
        for name, choice in CHOICES.items():
            if (word := getattr(self, name)) not in choice.words:
                raise InvalidRequest(
                    "choice_unknown", field=name, known=choice.words, value=_shown(word)
                )
        if self.model is not None and not _is_name(self.model):
            raise InvalidRequest("model_name_invalid", field="model", value=_shown(self.model))

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> "VideoParams":
        """Params from untrusted names and values. Raises `InvalidRequest`, unknown names too."""
        names = [f.name for f in fields(cls)]
        for name in values:
            if name not in names:
                raise InvalidRequest(
                    "setting_unknown", field=str(name)[:40], value=_shown(name), known=names
                )
        return cls(**values)  # type: ignore[arg-type]  # __post_init__ checks every value

    def to_mapping(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_query(cls, text: str) -> "VideoParams":
        """What `to_query` gave, out of the query of a link, whose other names are left to others.

        Raises `InvalidRequest` with the field's name, for settings given twice too.
        """
        if len(text) > MAX_QUERY:
            raise InvalidRequest("link_too_long", field="link")
        known = {f.name for f in fields(cls)}
        pairs = parse_qsl(text.removeprefix("?"), keep_blank_values=True)
        found = [(name, value) for name, value in pairs if name in known]
        names = [name for name, _ in found]
        for name in names:
            if names.count(name) > 1:
                raise InvalidRequest("link_repeats_setting", field=name)
        return cls.from_mapping(dict(found))

    def to_query(self) -> str:
        """The settings as the query of a link, without the defaults. The seed is always in it."""
        values = self.to_mapping()
        return urlencode({name: v for name, v in values.items() if v != self.default(name)})

    @property
    def rate(self) -> int:
        """Playback rate in frames per second, before interpolation."""
        return self.fps if self.playback_fps is None else self.playback_fps

    @staticmethod
    def default(name: str) -> Any:
        """Default of a field, for sliders and help texts. `seed` has none: it is drawn."""
        found = {f.name: f.default for f in fields(VideoParams)}[name]
        return None if found is MISSING else found


@dataclass(frozen=True)
class VideoRequest:
    """`image`: the bytes of a picture file, as uploaded. `continues`: the job whose video the new
    clip is joined to, `image` being its last frame; see `extend.continuing`."""

    image: bytes
    params: VideoParams
    continues: str | None = None


def limit_interpolation(
    interpolation: Interpolation, fps: int, max_fps: float = LIMITS["fps"].maximum
) -> Interpolation:
    """The highest value up to `interpolation` that does not raise `fps` above `max_fps`.

    So no frame is computed only to be dropped. "off" if `fps` is too high for any in-between frame.
    """
    fitting = (
        value
        for value, factor in FACTORS.items()
        if factor <= FACTORS[interpolation] and fps * factor <= max_fps
    )
    return max(fitting, key=FACTORS.__getitem__, default="off")


def check_value(name: str, limit: Limit, value: object) -> int | float | None:
    """`value` as a number within `limit`. Raises `InvalidRequest` with the field and its range."""
    if value is None and limit.optional:
        return None
    number = _number(value)
    if number is not None and limit.minimum <= number <= limit.maximum:
        if not limit.integer:
            return float(number)
        if number == int(number):
            return int(number)
    raise InvalidRequest(
        "whole_number_out_of_range" if limit.integer else "number_out_of_range",
        field=name,
        least=limit.minimum,
        most=limit.maximum,
        value=_shown(value),
    )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()


def _number(value: object) -> float | None:
    """`value` as a float, which holds all integers in question exactly; None if it is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
