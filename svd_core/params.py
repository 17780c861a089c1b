"""Video parameters: `VideoRequest(image, VideoParams)`, checked by pydantic.

Page, command line, HTTP API and documents take ranges, defaults and help from the same fields.
"""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, get_args
from urllib.parse import parse_qsl, urlencode

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic.fields import FieldInfo

from svd_core.errors import InvalidRequest

Fit = Literal["crop", "pad"]
Orientation = Literal["auto", "landscape", "portrait", "square"]
Speed = Literal["exact", "fast", "turbo"]
Interpolation = Literal["off", "2x", "4x"]

FACTORS: Mapping[Interpolation, int] = {"off": 1, "2x": 2, "4x": 4}
"""Factors by which interpolation multiplies the playback rate."""

MAX_FPS = 100
"""Highest frame rate, also after interpolation."""

MAX_NUM_FRAMES = 50
"""Most frames of one clip."""

MAX_STEPS = 100
"""Most denoising steps."""

MAX_FRAMES = 150
"""Most frames of an extended video: six clips of SVD-XT, about 270 MB at 1024x576."""

MAX_NAME = 200
"""Most characters of a checkpoint's name."""

MAX_QUERY = 4096
"""Most characters of a link's settings; all of them together take about 400."""


def draw_seed() -> int:
    """A fresh seed from the operating system's entropy, in 0..2^32-1."""
    return random.SystemRandom().randrange(2**32)


def _check_printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("not printable")
    return name


def _field(
    description: str, span: tuple[float, float] | None = None, default: Any = None, **more: Any
) -> Any:
    if span is not None:
        more |= {"ge": span[0], "le": span[1]}
    if "default_factory" not in more:
        more["default"] = default
    return Field(description=description, **more)


@pydantic_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class VideoParams:
    """Every setting of one video, in diffusers' names, with its range and a line of help.

    None means the model's own value. Numbers may be text ("127") or whole floats (127.0), as forms
    and JSON send them. `model`: name of a checkpoint, which only the server can check; None: its
    default. Raises `InvalidRequest` with the field's name.
    """

    # Motion buckets 1..255 and augmentation 0..10 as in hosted SVD services. Seeds have 32 bits,
    # which a JavaScript number holds exactly.
    seed: int = _field(
        "random seed; the same seed and settings give the same video",
        (0, 2**32 - 1),
        default_factory=draw_seed,
    )
    motion_bucket_id: int = _field(
        "how much motion there is: 40 is calm, 127 normal, 200 lively", (1, 255), 127
    )
    noise_aug_strength: float = _field(
        "noise added to the photo; more allows more motion, but less likeness", (0, 10), 0.02
    )
    fps: int = _field(
        "frames per second the motion is made for, and the playback rate", (1, MAX_FPS), 7
    )
    playback_fps: int | None = _field("playback rate, if it differs from fps", (1, MAX_FPS))
    num_frames: int | None = _field(
        "length in frames; if left out, the model's default", (2, MAX_NUM_FRAMES)
    )
    num_inference_steps: int | None = _field(
        "denoising steps; if left out, the model's default", (1, MAX_STEPS)
    )
    min_guidance_scale: float | None = _field(
        "guidance at the first frame; if left out, the model's default", (0, 20)
    )
    max_guidance_scale: float | None = _field(
        "guidance at the last frame; if left out, the model's default", (0, 20)
    )
    decode_chunk_size: int | None = _field(
        "frames decoded at a time; if left out, as many as fit in memory", (1, MAX_NUM_FRAMES)
    )
    orientation: Orientation = _field(
        "shape of the video; auto picks the one closest to the photo's", default="auto"
    )
    fit: Fit = _field(
        "crop the photo to the shape of the video, or pad it with blurred borders", default="crop"
    )
    focus_x: float = _field("which part a crop keeps: 0 is the left edge, 1 the right", (0, 1), 0.5)
    focus_y: float = _field("which part a crop keeps: 0 is the top edge, 1 the bottom", (0, 1), 0.5)
    speed: Speed = _field(
        "fast takes half the steps, turbo only four, with its own weights; both change the result",
        default="exact",
    )
    interpolation: Interpolation = _field(
        "in-between frames for smoother playback: two or four times the frame rate, up to "
        f"{MAX_FPS} fps",
        default="off",
    )
    model: Annotated[str, AfterValidator(_check_printable)] | None = _field(
        "checkpoint that makes the video; if left out, the server's default",
        min_length=1,
        max_length=MAX_NAME,
    )

    @model_validator(mode="wrap")
    @classmethod
    def _translate_errors(cls, values: Any, validate: Callable[[Any], Any]) -> Any:
        return translate_errors(cls, values, validate)

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> "VideoParams":
        """Params from untrusted names and values. Raises `InvalidRequest`, unknown names too."""
        return cls(**values)  # type: ignore[arg-type]  # which is what pydantic checks

    def to_mapping(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_query(cls, text: str) -> "VideoParams":
        """Undo `to_query`. Other names in the query are ignored.

        Raises `InvalidRequest` with the field's name, also for a repeated setting.
        """
        if len(text) > MAX_QUERY:
            raise InvalidRequest("link_too_long", field="link")
        pairs = parse_qsl(text.removeprefix("?"), keep_blank_values=True)
        settings = [(name, value) for name, value in pairs if name in PARAMETERS]
        names = [name for name, _ in settings]
        for name in names:
            if names.count(name) > 1:
                raise InvalidRequest("link_repeats_setting", field=name)
        return cls.from_mapping(dict(settings))

    def to_query(self) -> str:
        """The settings as the query of a link: the seed, and what is not a default."""
        values = self.to_mapping()
        return urlencode({name: v for name, v in values.items() if v != self.default(name)})

    @property
    def rate(self) -> int:
        """Playback rate in frames per second, before interpolation."""
        return self.fps if self.playback_fps is None else self.playback_fps

    @staticmethod
    def default(name: str) -> Any:
        """Default of a field, for sliders and help texts. `seed` has none."""
        return PARAMETERS[name].default


def _fields(kind: type) -> Mapping[str, FieldInfo]:
    fields: Mapping[str, FieldInfo] = kind.__pydantic_fields__  # type: ignore[attr-defined]
    return fields


@dataclass(frozen=True)
class Parameter:
    """A field of `VideoParams`: a number in a closed range, one of some words, or a name.

    `default`: None if the model, the server or chance decides. `span`: the range, or empty.
    """

    help: str
    default: Any
    minimum: float
    maximum: float
    integer: bool
    words: tuple[str, ...]

    @classmethod
    def from_field(cls, field: FieldInfo) -> "Parameter":
        """`field`: pydantic's, with the range in its metadata."""
        least = [each.ge for each in field.metadata if hasattr(each, "ge")]
        most = [each.le for each in field.metadata if hasattr(each, "le")]
        kinds = get_args(field.annotation) or (field.annotation,)
        return cls(
            help=field.description or "",
            default=None if field.default_factory else field.default,
            minimum=least[0] if least else -math.inf,
            maximum=most[0] if most else math.inf,
            integer=int in kinds,
            words=kinds if isinstance(kinds[0], str) else (),
        )

    @property
    def span(self) -> str:
        unlimited = math.inf in (-self.minimum, self.maximum)
        return "" if unlimited else f"{self.minimum:.10g}..{self.maximum:.10g}"


PARAMETERS: Mapping[str, Parameter] = {
    name: Parameter.from_field(each) for name, each in _fields(VideoParams).items()
}
"""The fields of `VideoParams`, for controls, command line and documents."""


@dataclass(frozen=True)
class VideoRequest:
    """`image`: bytes of an uploaded picture file. `continues`: id of the job whose video is
    extended, with `image` as its last frame; see `extend.continuation_request`."""

    image: bytes
    params: VideoParams
    continues: str | None = None


def limit_interpolation(
    interpolation: Interpolation, fps: int, max_fps: float = MAX_FPS
) -> Interpolation:
    """The highest value up to `interpolation` that keeps the rate within `max_fps`; else "off".

    So no frame is computed only to be dropped.
    """
    fitting = (
        value
        for value, factor in FACTORS.items()
        if factor <= FACTORS[interpolation] and fps * factor <= max_fps
    )
    return max(fitting, key=FACTORS.__getitem__, default="off")


def check_value(name: str, value: object) -> Any:
    """Validate `value` for that field of `VideoParams`. Raises `InvalidRequest`."""
    return getattr(VideoParams.from_mapping({name: value}), name)


def translate_errors(kind: type, values: Any, validate: Callable[[Any], Any]) -> Any:
    """Validator of a pydantic dataclass that raises `InvalidRequest` instead of pydantic's error.

    It also refuses booleans, which pydantic would take for numbers.
    """
    fields = _fields(kind)
    for name, value in (values.kwargs or {}).items():
        if isinstance(value, bool) and name in fields:
            raise _refusal(fields, name, value)
    try:
        return validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise _refusal(fields, str(first["loc"][0]), first["input"]) from None


def _refusal(fields: Mapping[str, FieldInfo], name: str, value: object) -> InvalidRequest:
    """The error for a wrong value of the field `name`, or for an unknown field."""
    if name not in fields:
        return InvalidRequest(
            "setting_unknown", field=name[:40], value=_shown(name), known=list(fields)
        )
    parameter, shown = Parameter.from_field(fields[name]), _shown(value)
    if parameter.words:
        return InvalidRequest("choice_unknown", field=name, known=parameter.words, value=shown)
    if not parameter.span:
        return InvalidRequest("model_name_invalid", field=name, value=shown)
    return InvalidRequest(
        "whole_number_out_of_range" if parameter.integer else "number_out_of_range",
        field=name,
        least=parameter.minimum,
        most=parameter.maximum,
        value=shown,
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
