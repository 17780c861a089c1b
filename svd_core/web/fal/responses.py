"""Responses in the shapes of fal: the video, and the two kinds of errors."""

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
"""fal's names of the core's fields, where they differ."""

MAX_ECHO = 100
"""Characters of a wrong value that go back with the refusal; a data URI may have millions."""

JSON = json.JSONEncoder(allow_nan=False, separators=(",", ":"))

SHORT_REPR = reprlib.Repr()
"""Looks at the beginning of a value only, however large that is."""
SHORT_REPR.maxstring = SHORT_REPR.maxother = MAX_ECHO

Detail = Mapping[str, Any]
"""One entry of a 422: where, what, which kind."""


@dataclass(frozen=True)
class ApiResponse:
    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)

    def to_response(self, request_id: str | None = None) -> Response:
        headers = dict(self.headers)
        if request_id is not None:
            headers["X-Fal-Request-Id"] = request_id
        return Response(as_json(self.body), self.status, headers, "application/json")


class ApiError(Exception):  # noqa: N818 - an answer, raised
    """Ends a request with `response`."""

    def __init__(self, response: ApiResponse) -> None:
        super().__init__(response.status)
        self.response = response


def as_json(body: Any) -> bytes:
    """In ASCII, since what a caller sent may hold halves of characters that UTF-8 cannot carry.

    Never fails for numbers: what JSON has no form for goes as text.
    """
    try:
        return JSON.encode(body).encode("ascii")
    except ValueError:
        return JSON.encode(_representable(body)).encode("ascii")


def request_error(
    status: int, detail: str, error_type: str, headers: Mapping[str, str] | None = None
) -> ApiResponse:
    """An error of the server or of the call, as opposed to one of the input."""
    own = {"X-Fal-Error-Type": error_type}
    return ApiResponse(
        status, {"detail": detail, "error_type": error_type}, {**own, **(headers or {})}
    )


def input_error(details: Sequence[Detail]) -> ApiResponse:
    return ApiResponse(422, {"detail": list(details)}, {"X-Fal-Retryable": "false"})


def detail(field: str, message: str, kind: str, **more: Any) -> Detail:
    """An entry of a 422. `field`: fal's name of it; empty: the whole body."""
    found = {
        "loc": ["body", field] if field else ["body"],
        "msg": message,
        "type": kind,
        "url": f"https://docs.fal.ai/errors/#{kind}",
    }
    if "input" in more:
        more["input"] = echoed(more["input"])
    return {**found, **more}


def echoed(value: Any) -> Any:
    """`value` as it goes back to its sender: whole if it is short, else its beginning as text."""
    if isinstance(value, int | float) or _is_short(value):
        return _representable(value)
    if isinstance(value, str):
        return f"{value[:MAX_ECHO]}..."
    return f"{SHORT_REPR.repr(value)[:MAX_ECHO]}..."


def _is_short(value: Any) -> bool:
    """Whether `value` has at most some `MAX_ECHO` characters as JSON. Stops counting there."""
    room, pending = MAX_ECHO, [value]
    while pending and room >= 0:
        one = pending.pop()
        room -= len(one) if isinstance(one, str | dict | list) else 4
        if isinstance(one, dict) and room >= 0:
            pending += [*one, *one.values()]
        elif isinstance(one, list) and room >= 0:
            pending += one
    return room >= 0


def _representable(value: Any) -> Any:
    """`value` with text in place of numbers that JSON has no form for."""
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
    """How `error` is told, whether it refuses a call or ended a job."""
    match error:
        case InvalidUrl():
            return input_error([detail("image_url", error.message, "file_download_error")])
        case InvalidImage():
            return input_error([_image_error(error)])
        case InvalidRequest():
            name = FAL_NAMES.get(error.field, error.field)
            return input_error([detail(name, error.message, "value_error")])
        case Cancelled():
            return request_error(499, error.message, "client_cancelled")
        case StartTimeout():
            user = {"X-Fal-Request-Timeout-Type": "user"}
            return request_error(504, error.message, "request_timeout", user)
        case QueueFull():
            more = {"X-Fal-Needs-Retry": "1"}
            return request_error(429, error.message, "concurrent_requests_limit", more)
        case ServerStopping() | QueueUnavailable():
            return request_error(503, error.message, "runner_disconnected")
        case UnknownJob():
            return NOT_FOUND
        case _:  # what clients would try again at 503 would be the reading of a job that has ended
            return request_error(500, error.message, "runner_server_error")


def _image_error(error: InvalidImage) -> Detail:
    """The limit goes along where there is one number to it."""
    ctx: dict[str, Any]
    match error.reason:
        case "bytes":
            kind, ctx = "file_too_large", {"max_size": MAX_BYTES}
        case "format":
            kind, ctx = "unsupported_image_format", {"supported_formats": [*FORMATS, "HEIC"]}
        case "too few pixels":
            kind, ctx = "image_too_small", {"min_width": MIN_SIDE, "min_height": MIN_SIDE}
        case "too many pixels":
            kind, ctx = "image_too_large", {}
        case _:
            kind, ctx = "image_load_error", {}
    return detail("image_url", error.message, kind, **({"ctx": ctx} if ctx else {}))


def not_an_object(body: Any) -> Detail:
    return detail("", "Input should be an object", "model_attributes_type", input=body)


NOT_FOUND = ApiResponse(404, {"status": "NOT_FOUND"})
CLIENT_DISCONNECTED = request_error(499, "The client went away.", "client_disconnected")
