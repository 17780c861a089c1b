"""Input and output models of fal's `fal-ai/stable-video`, and their mapping to core parameters.

The models of all other bodies are here too: FastAPI checks and describes responses by them.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass as pydantic_dataclass

from svd_core.errors import InvalidRequest
from svd_core.messages import validation_reason
from svd_core.params import PARAMETERS, VideoParams
from svd_core.web.fal.responses import FAL_NAMES, Detail, detail, error_detail
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
    logs: list[LogLine] | None = Field(description="All lines so far; null if not requested.")
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
    upload_url: str = Field(description="PUT the file here; no key is needed.")
    file_url: str = Field(description="Address of the uploaded file, for `image_url`.")


class CdnToken(BaseModel):
    token: str
    token_type: Literal["Bearer"]
    base_url: str
    expires_at: str


class StreamTokenRequest(BaseModel):
    allowed_apps: list[Literal["stable-video", "fal-ai/stable-video"]] = Field(min_length=1)
    token_expiration: float = Field(120, gt=0, strict=True, description="Seconds, at most 3600.")


class Uploaded(BaseModel):
    access_url: str


class MultipartUpload(BaseModel):
    access_url: str
    uploadId: str  # noqa: N815 - the client's spelling


MAX_PARTS = 10_000


class PartStored(BaseModel):
    partNumber: int = Field(ge=1, le=MAX_PARTS)  # noqa: N815
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
    models: list[str] = Field(description="Checkpoints to choose from; the first is the default.")
    device: str
    version: str


def _field(name: str, **changes: Any) -> Any:
    """The core's parameter of that name, with another alias or default."""
    core = PARAMETERS[name]
    kept = {"default": core.default, "ge": core.minimum, "le": core.maximum}
    return Field(**{**kept, "description": core.help, **changes})


@pydantic_dataclass(frozen=True, kw_only=True)
class PhotoInput:
    image_url: str = Field(
        description="the photo: an http(s) address, a data URI, or the address of an upload",
        examples=["https://example.com/photo.jpg"],
    )


@pydantic_dataclass(
    frozen=True,
    kw_only=True,
    config=ConfigDict(title="StableVideoInput", extra="ignore", allow_inf_nan=False),
)
class VideoInput(VideoParams, PhotoInput):  # in this order `image_url` is the first field
    """fal's input: the core's parameters, some by fal's names and with fal's defaults.

    Unknown fields are ignored, as fal does.
    """

    seed: int | None = _field("seed")  # type: ignore[assignment]  # null: draw one
    noise_aug_strength: float = _field("noise_aug_strength", alias=FAL_NAMES["noise_aug_strength"])
    fps: int = _field("fps", default=DEFAULT_FPS)
    model: str | None = Field(
        default=None, description=f"{PARAMETERS['model'].help}; `/health` lists the choices"
    )

    @model_validator(mode="wrap")
    @classmethod
    def _translate_errors(cls, values: Any, validate: Callable[[Any], Any]) -> Any:
        return validate(values)  # each error becomes an entry of the 422


class File(BaseModel):
    url: str = Field(description="Where the file can be downloaded.")
    content_type: Literal["video/mp4"]
    file_name: str
    file_size: int = Field(description="Bytes.")


class VideoOutput(BaseModel):
    video: File
    seed: int = Field(description="The seed that was given or drawn.")


Model = TypeVar("Model")


def parse(model: type[Model], body: Any) -> Model:
    """The model of a JSON body. Raises `InvalidInput`.

    Names beyond ASCII are ignored: no field has one, and pydantic fails on half a surrogate pair.
    """
    if not isinstance(body, dict):
        message = "Input should be an object"
        raise InvalidInput([detail("", message, "model_attributes_type", input=body)])
    try:
        fields = {name: value for name, value in body.items() if name.isascii()}
        return TypeAdapter(model).validate_python(fields)
    except ValidationError as error:
        raise InvalidInput([_detail(entry) for entry in error.errors()]) from None


def read_input(body: Any) -> tuple[str, VideoParams]:
    """Parse the body of a submit: (image_url, params). Raises `InvalidInput`."""
    parsed = parse(VideoInput, body)
    try:
        values = {name: getattr(parsed, name) for name in PARAMETERS}
        params = VideoParams(**{name: value for name, value in values.items() if value is not None})
    except InvalidRequest as error:  # a model that cannot be a name
        raise InvalidInput.from_error(error) from None
    return parsed.image_url, params


class InvalidInput(Exception):  # noqa: N818 - named after what went wrong, like the core's
    """Invalid input of a submit.

    `details`: entries of the 422, one for each wrong field. `error`: what its job fails with.
    """

    def __init__(self, details: list[Detail], error: InvalidRequest | None = None) -> None:
        first = details[0]
        super().__init__(str(first["msg"]))
        self.details = details
        reason = validation_reason(first["type"], first.get("ctx", {}))
        field = str(first["loc"][-1])
        self.error = error or InvalidRequest("input_invalid", field=field, reason=reason)

    @classmethod
    def from_error(cls, error: InvalidRequest) -> "InvalidInput":
        return cls([error_detail(error)], error)


def _detail(entry: Any) -> Detail:
    ctx = {"ctx": entry["ctx"]} if "ctx" in entry else {}
    name = ".".join(map(str, entry["loc"]))
    return detail(name, entry["msg"], entry["type"], **ctx, input=entry["input"])
