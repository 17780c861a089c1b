"""Responses in the format of fal: errors of the request or server, and errors of the input."""

import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from svd_core.errors import (
    Cancelled,
    InvalidImage,
    InvalidRequest,
    InvalidUrl,
    QueueFull,
    QueueUnavailable,
    ServerStopping,
    StartTimeout,
    SvdError,
    UnknownJob,
)
from svd_core.media.image import FORMATS, MAX_BYTES, MIN_SIDE

FAL_NAMES: Mapping[str, str] = {"image": "image_url", "noise_aug_strength": "cond_aug"}
"""fal's names of core fields, if they differ."""

MAX_ECHO = 100
"""Characters of a wrong value that the error repeats; a data URI may have millions."""

JSON = json.JSONEncoder(allow_nan=False, separators=(",", ":"))

SHORT_REPR = reprlib.Repr()
"""Reads only the beginning of a value."""
SHORT_REPR.maxstring = SHORT_REPR.maxother = MAX_ECHO

Detail = Mapping[str, Any]
"""One entry of a 422: location, message, type."""


@dataclass(frozen=True)
class ApiResponse:
    """A JSON response."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)

    def to_response(self, request_id: str | None = None) -> Response:
        headers = dict(self.headers)
        if request_id is not None:
            headers["X-Fal-Request-Id"] = request_id
        return Response(as_json(self.body), self.status, headers, "application/json")


class ApiError(Exception):
    """Ends a request with `response`."""

    def __init__(self, response: ApiResponse) -> None:
        super().__init__(response.status)
        self.response = response


def as_json(body: Any) -> bytes:
    """Encode `body` in ASCII: text of callers may hold lone surrogates, which UTF-8 cannot encode.

    Numbers that JSON cannot hold become text.
    """
    try:
        return JSON.encode(body).encode("ascii")
    except ValueError:
        return JSON.encode(_representable(body)).encode("ascii")


def request_error(
    status: int,
    detail: str,
    error_type: str,
    headers: Mapping[str, str] | None = None,
    code: str = "",
) -> ApiResponse:
    """An error of the server or of the request, not of the input. `code`: of an `SvdError`."""
    headers = {"X-Fal-Error-Type": error_type, **(headers or {})}
    body = {"detail": detail, "error_type": error_type}
    return ApiResponse(status, body | {"error_code": code} if code else body, headers)


def input_error(details: Sequence[Detail]) -> ApiResponse:
    """An error of the input, 422."""
    return ApiResponse(422, {"detail": list(details)}, {"X-Fal-Retryable": "false"})


def detail(field: str, message: str, kind: str, **more: Any) -> Detail:
    """Make an entry of a 422. `field`: fal's name; empty: the whole body."""
    entry = {
        "loc": ["body", field] if field else ["body"],
        "msg": message,
        "type": kind,
        "url": f"https://docs.fal.ai/errors/#{kind}",
    }
    if "input" in more:
        more["input"] = echoed(more["input"])
    return {**entry, **more}


def echoed(value: Any) -> Any:
    """`value` as an error repeats it: whole if it is short, else its beginning as text."""
    if isinstance(value, int | float) or _is_short(value):
        return _representable(value)
    if isinstance(value, str):
        return f"{value[:MAX_ECHO]}..."
    return f"{SHORT_REPR.repr(value)[:MAX_ECHO]}..."


def _is_short(value: Any) -> bool:
    """Whether `value` has at most about `MAX_ECHO` characters as JSON. Stops counting there."""
    room, pending = MAX_ECHO, [value]
    while pending and room >= 0:
        part = pending.pop()
        room -= len(part) if isinstance(part, str | dict | list) else 4
        if isinstance(part, dict) and room >= 0:
            pending += [*part, *part.values()]
        elif isinstance(part, list) and room >= 0:
            pending += part
    return room >= 0


def _representable(value: Any) -> Any:
    """`value` with text in place of numbers that JSON cannot hold."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case int() if value.bit_length() > 64:
            return f"a number of {value.bit_length()} bits"
        case Mapping():
            return {key: _representable(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_representable(inner) for inner in value]
    return value


def error_response(error: SvdError) -> ApiResponse:
    """The response for an error that refused a request or ended a job."""
    kind: str
    headers: dict[str, str] = {}
    match error:
        case InvalidRequest():
            return input_error([error_detail(error)])
        case UnknownJob():
            return NOT_FOUND
        case Cancelled():
            status, kind = 499, "client_cancelled"
        case StartTimeout():
            status, kind = 504, "request_timeout"
            headers = {"X-Fal-Request-Timeout-Type": "user"}
        case QueueFull():
            status, kind = 429, "concurrent_requests_limit"
            headers = {"X-Fal-Needs-Retry": "1"}
        case ServerStopping() | QueueUnavailable():
            status, kind = 503, "runner_disconnected"
        case _:  # not 503, or clients would retry to read the result of a failed job
            status, kind = 500, "runner_server_error"
    return request_error(status, error.message, kind, headers, error.code)


def error_detail(error: InvalidRequest) -> Detail:
    """The entry for an error of the core, with the limit that a photo exceeds."""
    field = FAL_NAMES.get(error.field, error.field)
    more: dict[str, Any] = {"code": error.code}
    match error:
        case InvalidUrl():
            kind = "file_download_error"
        case InvalidImage(code="image_file_too_large"):
            kind, more["ctx"] = "file_too_large", {"max_size": MAX_BYTES}
        case InvalidImage(code="image_too_small"):
            kind, more["ctx"] = "image_too_small", {"min_width": MIN_SIDE, "min_height": MIN_SIDE}
        case InvalidImage(code=code) if code in TOO_MANY_PIXELS:
            kind = "image_too_large"
        case InvalidImage(code=code) if code in UNSUPPORTED:
            kind = "unsupported_image_format"
            more["ctx"] = {"supported_formats": [*FORMATS, "HEIC"]}
        case InvalidImage():
            kind = "image_load_error"
        case _:
            kind = "value_error"
    return detail(field, error.message, kind, **more)


TOO_MANY_PIXELS = {
    "image_too_many_pixels", "image_jpeg_too_many_pixels", "image_far_too_many_pixels"
}  # fmt: skip
UNSUPPORTED = {
    "image_is_svg", "image_unsupported_format", "image_is_document", "image_unknown_format",
    "image_unreadable", "image_needs_heif",
}  # fmt: skip
"""Codes of photos in a format that cannot be read."""


NOT_FOUND = ApiResponse(404, {"status": "NOT_FOUND"})
CLIENT_DISCONNECTED = request_error(499, "The client disconnected.", "client_disconnected")
