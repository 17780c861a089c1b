"""Response models for the OpenAPI description."""

from typing import Any, Literal

from pydantic import BaseModel, Field


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
