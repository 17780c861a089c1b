"""Input and output models of fal's `fal-ai/stable-video`, and their mapping to core parameters.

The other response models serve the OpenAPI description only.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from svd_core.errors import InvalidRequest
from svd_core.params import CHOICES, LIMITS, Limit, VideoParams
from svd_core.web.fal.responses import Detail, detail, error_detail
from svd_core.web.snippets import DEFAULT_FPS


class Submitted(BaseModel):
    status: Literal["IN_QUEUE"]
    request_id: str
    gateway_request_id: str
    response_url: str
    status_url: str
    cancel_url: str
    queue_position: int = Field(description="Requests ahead of this one.")


class LogLine(BaseModel):
    message: str
    level: Literal["INFO", "ERROR"]
    source: Literal["USER"]
    timestamp: str


class Metrics(BaseModel):
    inference_time: float | None = Field(None, description="Seconds.")


class QueueStatus(BaseModel):
    status: Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
    request_id: str
    response_url: str
    status_url: str
    cancel_url: str
    queue_position: int | None = Field(None, description="Requests ahead, while IN_QUEUE.")
    logs: list[LogLine] | None = Field(description="All lines so far; null if not asked for.")
    metrics: Metrics | None = Field(None, description="Once COMPLETED.")
    error: str | None = Field(None, description="Why there is no result, once COMPLETED.")
    error_type: str | None = None
    error_code: str | None = Field(None, description="This server's own; see the README.")


class CancelAccepted(BaseModel):
    status: Literal["CANCELLATION_REQUESTED"]


class CancelTooLate(BaseModel):
    status: Literal["ALREADY_COMPLETED"]


class NotFound(BaseModel):
    status: Literal["NOT_FOUND"]


class InputProblem(BaseModel):
    loc: list[str | int]
    msg: str
    type: str
    code: str | None = Field(None, description="This server's own name of it; see the README.")
    url: str | None = None
    ctx: dict[str, Any] | None = None
    input: Any = None


class InputError(BaseModel):
    """Something is wrong with the input."""

    detail: list[InputProblem]


class RequestError(BaseModel):
    """Something is wrong with the call or the server; `X-Fal-Error-Type` says the same."""

    detail: str
    error_type: str
    error_code: str | None = Field(None, description="This server's own; see the README.")


class Message(BaseModel):
    detail: str


class UploadRequest(BaseModel):
    content_type: str | None = None
    file_name: str | None = None


class UploadResponse(BaseModel):
    upload_url: str = Field(description="PUT the file here; this address is its own permission.")
    file_url: str = Field(description="Where the file is then, for `image_url`.")


class CdnToken(BaseModel):
    token: str
    token_type: Literal["Bearer"]
    base_url: str
    expires_at: str


class StreamTokenRequest(BaseModel):
    allowed_apps: list[Literal["stable-video", "fal-ai/stable-video"]] = Field(min_length=1)
    token_expiration: float = Field(120, gt=0, description="Seconds, at most 3600.")


class Uploaded(BaseModel):
    access_url: str


class MultipartUpload(BaseModel):
    access_url: str
    uploadId: str  # noqa: N815 - the client's spelling


class PartStored(BaseModel):
    partNumber: int  # noqa: N815
    etag: str


class Stored(BaseModel):
    etag: str


class PartList(BaseModel):
    parts: list[PartStored]


class KeySet(BaseModel):
    keys: list[dict[str, str]]


class Health(BaseModel):
    status: Literal["ok", "loading", "failed"]
    queue_length: int = Field(description="Jobs that wait.")
    model: str = Field(description="The checkpoint in memory, or on its way there.")
    models: list[str] = Field(description="Checkpoints to choose from; the first is the usual one.")
    device: str
    version: str


MODEL = "checkpoint that makes the video, one that `/health` lists; the first of them if left out"

EXAMPLE = "https://example.com/photo.jpg"


def _field(limit: Limit, default: object) -> tuple[Any, Any]:
    kind: Any = int if limit.integer else float
    field = Field(default, ge=limit.minimum, le=limit.maximum, description=limit.help)
    return (kind | None if limit.optional else kind), field


class _FalInput(BaseModel):
    """The fields of fal's own endpoint. Unknown ones are ignored, as fal does."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    image_url: str = Field(
        description="The photo: an http(s) address, a data URI, or the address of an upload.",
        examples=[EXAMPLE],
    )
    seed: int | None = Field(
        None,
        ge=LIMITS["seed"].minimum,
        le=LIMITS["seed"].maximum,
        description="The same seed and photo give the same video; drawn if left out.",
    )
    motion_bucket_id: int = Field(
        VideoParams.default("motion_bucket_id"),
        ge=LIMITS["motion_bucket_id"].minimum,
        le=LIMITS["motion_bucket_id"].maximum,
        description="How much moves, from 1 to 255.",
    )
    cond_aug: float = Field(
        VideoParams.default("noise_aug_strength"),
        ge=LIMITS["noise_aug_strength"].minimum,
        le=LIMITS["noise_aug_strength"].maximum,
        description="Noise on the photo: more frees the motion and loses likeness.",
    )
    fps: int = Field(
        DEFAULT_FPS,
        ge=LIMITS["fps"].minimum,
        le=LIMITS["fps"].maximum,
        description="Frames per second of the video.",
    )


_FAL_FIELDS = ("seed", "motion_bucket_id", "noise_aug_strength", "fps")

VideoInput = create_model(
    "StableVideoInput",
    __base__=_FalInput,
    **{
        name: _field(limit, VideoParams.default(name))
        for name, limit in LIMITS.items()
        if name not in _FAL_FIELDS
    },
    **{
        name: (Literal[choice.words], Field(VideoParams.default(name), description=choice.help))
        for name, choice in CHOICES.items()
    },
    model=(str | None, Field(None, description=MODEL)),
)  # type: ignore[call-overload]  # the names come from a table
"""fal's input, and the core's other parameters under their own names."""


class File(BaseModel):
    url: str = Field(description="Where the file can be downloaded.")
    content_type: Literal["video/mp4"]
    file_name: str
    file_size: int = Field(description="Bytes.")


class VideoOutput(BaseModel):
    video: File
    seed: int = Field(description="The seed that was given or drawn.")


def read_input(body: Mapping[str, Any]) -> tuple[str, VideoParams]:
    """Parse the body of a submit: (image_url, params). Raises `InvalidInput`."""
    try:
        values = VideoInput.model_validate(body).model_dump()
    except ValidationError as error:
        raise InvalidInput([_detail(entry) for entry in error.errors()]) from None
    image_url: str = values.pop("image_url")
    values = {name: value for name, value in values.items() if value is not None}
    values["noise_aug_strength"] = values.pop("cond_aug")
    try:
        return image_url, VideoParams.from_mapping(values)
    except InvalidRequest as error:  # rules for several fields together
        raise InvalidInput.from_validation_error(error) from None


class InvalidInput(Exception):  # noqa: N818 - named after what went wrong, like the core's
    """Invalid input of a submit. `details`: entries of the 422, one for each wrong field."""

    def __init__(self, details: list[Detail]) -> None:
        super().__init__(str(details[0]["msg"]))
        self.details = details

    @classmethod
    def from_validation_error(cls, error: InvalidRequest) -> "InvalidInput":
        return cls([error_detail(error)])


def _detail(entry: Any) -> Detail:
    ctx = {"ctx": entry["ctx"]} if "ctx" in entry else {}
    name = ".".join(map(str, entry["loc"]))
    return detail(name, entry["msg"], entry["type"], **ctx, input=entry["input"])
