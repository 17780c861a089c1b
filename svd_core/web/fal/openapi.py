"""OpenAPI document of the API: inputs and every possible response of each endpoint.

Most of the file is one table.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import Any

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from svd_core import __version__
from svd_core.web.fal import models
from svd_core.web.fal.models import VideoInput, VideoOutput

JSON = "application/json"
BodyType = type[BaseModel] | str
"""A body: its model, or its media type if it is not JSON."""

Responses = Mapping[int, tuple[str, BodyType]]
"""(description, body) by status."""

UNAUTHORIZED: Responses = {401: ("No key, or no such key.", models.RequestError)}
CLOSED: Responses = {
    **UNAUTHORIZED,
    403: ("A web page of another origin, while the server has no keys.", models.RequestError),
}
UNAVAILABLE: Responses = {
    500: ("The server's disk is full.", models.RequestError),
    503: ("The server cannot do it now.", models.RequestError),
}
UNKNOWN: Responses = {404: ("No such request, or its time is over.", models.NotFound)}
BAD_REQUEST: Responses = {400: ("A header or the query is wrong.", models.RequestError)}
BAD_BODY: Responses = {
    413: ("The body is too large.", models.RequestError),
    422: ("The body is wrong.", models.InputError),
}
BUSY: Responses = {429: ("Too many requests wait.", models.RequestError)}
OUTCOMES: Responses = {
    422: ("The input was wrong, or the photo cannot be used.", models.InputError),
    499: ("The request was cancelled.", models.RequestError),
    500: ("No video could be made.", models.RequestError),
    504: ("The request did not start within its x-fal-request-timeout.", models.RequestError),
}
FORBIDDEN: Responses = {403: ("The upload is not permitted.", models.RequestError)}
STORING: Responses = {
    413: ("More than a file or a key may have.", models.RequestError),
    499: ("The client went away.", models.RequestError),
    500: ("The disk is full.", models.RequestError),
}
NO_FILE: Responses = {404: ("No such file, or its time is over.", models.RequestError)}
EVENTS = "text/event-stream"


@dataclass(frozen=True)
class OperationDoc:
    """Documentation of one operation.

    `keyed`: whether a key is needed. `body`: of the request; None if it has none.
    """

    summary: str
    tag: str
    responses: Responses
    headers: tuple[str, ...] = ()
    query: tuple[str, ...] = ()
    body: BodyType | None = None
    keyed: bool = True

    def route(self, name: str) -> dict[str, Any]:
        """Arguments of FastAPI's `add_api_route`."""
        extra: dict[str, Any] = {"parameters": [_parameter(one) for one in self.headers]}
        extra["parameters"] += [_parameter(one) for one in self.query]
        if self.body is not None:
            extra["requestBody"] = {"content": _content(self.body), "required": True}
        if self.keyed:
            extra["security"] = [{"falKey": []}]
        return {
            "summary": self.summary,
            "tags": [self.tag],
            "operation_id": name,
            "response_class": Response,
            "responses": {status: _response(*each) for status, each in self.responses.items()},
            "openapi_extra": extra,
        }


def _response(description: str, body: BodyType) -> dict[str, Any]:
    if isinstance(body, str):
        return {"description": description, "content": _content(body)}
    return {"description": description, "model": body}


def _content(body: BodyType) -> dict[str, Any]:
    if isinstance(body, str):
        binary = {"schema": {"type": "string", "format": "binary"}}
        return {body: {} if body == EVENTS else binary}
    return {JSON: {"schema": body.model_json_schema()}}


def _parameter(name: str) -> dict[str, Any]:
    place, schema, text = PARAMETERS[name]
    required = name == "token"
    return {
        "name": name, "in": place, "required": required, "description": text, "schema": schema,
    }  # fmt: skip


PARAMETERS: Mapping[str, tuple[str, dict[str, Any], str]] = {
    "fal_webhook": ("query", {"type": "string"}, "Address that is told how the request ended."),
    "fal_max_queue_length": (
        "query", {"type": "integer", "minimum": 0}, "Refuse (429) if more requests wait already.",
    ),
    "logs": (
        "query", {"type": "string", "enum": ["0", "1", "true", "false"]}, "Whether logs are told.",
    ),
    "token": ("query", {"type": "string"}, "As it stands in the address that was given."),
    "fal_jwt_token": ("query", {"type": "string"}, "A token of /rest/tokens, in place of a key."),
    "x-fal-queue-priority": (
        "header", {"type": "string", "enum": ["normal", "low"]},
        "Low ones run when no normal one waits.",
    ),
    "x-fal-request-timeout": (
        "header", {"type": "number", "minimum": 0.1, "maximum": 999_999_999},
        "Seconds within which the request must start.",
    ),
    "x-fal-object-lifecycle-preference": (
        "header", {"type": "string"},
        'JSON, {"expiration_duration_seconds": n}: how long the video stays.',
    ),
    "x-fal-object-lifecycle": (
        "header", {"type": "string"},
        'JSON, {"expiration_duration_seconds": n}: how long the file stays.',
    ),
    "x-fal-file-name": ("header", {"type": "string"}, "Tells the type where nothing else does."),
}  # fmt: skip

PATH_PATTERNS: Mapping[str, str] = {
    "request_id": "^[A-Za-z0-9-]{1,64}$",
    "folder": "^[0-9a-f]{8}$",
    "file": r"^[0-9a-f]{32}\.[a-z0-9]{3,4}$",
    "mark": "^[0-9a-f]{32}$",
    "number": "^[1-9][0-9]{0,3}$",
    "upload_id": r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$",
}
"""Patterns of the path parameters."""

RUN_HEADERS = ("x-fal-request-timeout", "x-fal-object-lifecycle-preference")

OPERATIONS: Mapping[str, OperationDoc] = {
    "submit": OperationDoc(
        "Put a request in line; wrong input is told by its result", "Queue",
        {200: ("In line.", models.Submitted), **BAD_REQUEST, **CLOSED, **BAD_BODY, **BUSY,
         **UNAVAILABLE},
        headers=("x-fal-queue-priority", *RUN_HEADERS),
        query=("fal_webhook", "fal_max_queue_length"), body=VideoInput,
    ),
    "status": OperationDoc(
        "How a request goes", "Queue",
        {200: ("It has ended.", models.QueueStatus),
         202: ("It waits or runs.", models.QueueStatus),
         **CLOSED, **UNKNOWN, **UNAVAILABLE}, query=("logs",),
    ),
    "status_stream": OperationDoc(
        "How a request goes, at every change, each with the new lines of the log", "Queue",
        {200: ("Statuses, the last one COMPLETED.", EVENTS), **CLOSED, **UNKNOWN, **UNAVAILABLE},
        query=("logs", "fal_jwt_token"),
    ),
    "result": OperationDoc(
        "The video, or why there is none; also at .../response", "Queue",
        {200: ("The video.", VideoOutput), 400: ("It has not ended yet.", models.Message),
         **CLOSED, **UNKNOWN, **UNAVAILABLE, **OUTCOMES},
    ),
    "cancel": OperationDoc(
        "Cancel a request that waits or runs", "Queue",
        {202: ("It will end.", models.CancelAccepted),
         400: ("It has ended.", models.CancelTooLate), **CLOSED, **UNKNOWN, **UNAVAILABLE},
    ),
    "run": OperationDoc(
        "Make a video and wait for it", "Run",
        {200: ("The video.", VideoOutput), **BAD_REQUEST, **CLOSED, **BAD_BODY, **BUSY,
         **UNAVAILABLE, **OUTCOMES, 404: ("The video's time is over.", models.NotFound)},
        headers=RUN_HEADERS, query=("fal_max_queue_length",), body=VideoInput,
    ),
    "run_stream": OperationDoc(
        "Make a video and tell how it goes; the last event is the video", "Run",
        {200: ("Progress, then the video or an error.", EVENTS), **BAD_REQUEST, **CLOSED,
         **BAD_BODY, **BUSY, **UNAVAILABLE},
        headers=RUN_HEADERS, query=("fal_max_queue_length", "fal_jwt_token"), body=VideoInput,
    ),
    "initiate": OperationDoc(
        "Where to send a file", "Files",
        {200: ("Two addresses.", models.UploadResponse), **BAD_REQUEST, **CLOSED, **BAD_BODY},
        headers=("x-fal-object-lifecycle",), body=models.UploadRequest,
    ),
    "initiate_multipart": OperationDoc(
        "Where to send a big file, part by part", "Files",
        {200: ("Two addresses.", models.UploadResponse), **BAD_REQUEST, **CLOSED, **BAD_BODY},
        headers=("x-fal-object-lifecycle",), body=models.UploadRequest,
    ),
    "put": OperationDoc(
        "Send a file to its upload_url", "Files",
        {200: ("Stored.", models.Stored), **FORBIDDEN, **STORING}, query=("token",),
        body="application/octet-stream", keyed=False,
    ),
    "put_part": OperationDoc(
        "Send a part of a file", "Files",
        {200: ("Stored.", models.PartStored), **BAD_REQUEST, **FORBIDDEN, **STORING},
        query=("token",), body="application/octet-stream", keyed=False,
    ),
    "complete": OperationDoc(
        "Put the parts of a file together", "Files",
        {200: ("The file.", models.Uploaded), **BAD_REQUEST, **FORBIDDEN, **BAD_BODY, **STORING},
        query=("token",), body=models.PartList, keyed=False,
    ),
    "cdn_token": OperationDoc(
        "A token for uploads", "Files", {200: ("The token.", models.CdnToken), **CLOSED},
    ),
    "upload": OperationDoc(
        "Send a file, by a token or a key", "Files",
        {200: ("Its address.", models.Uploaded), **BAD_REQUEST, **CLOSED, **STORING},
        headers=("x-fal-file-name", "x-fal-object-lifecycle"), body="application/octet-stream",
    ),
    "begin": OperationDoc(
        "Begin to send a big file, by a token or a key", "Files",
        {200: ("Its address, and the id of the upload.", models.MultipartUpload),
         **BAD_REQUEST, **CLOSED},
        headers=("x-fal-file-name", "x-fal-object-lifecycle"),
    ),
    "put_part_by_id": OperationDoc(
        "Send a part of a file", "Files",
        {200: ("Stored.", models.PartStored), **BAD_REQUEST, **FORBIDDEN, **STORING},
        body="application/octet-stream", keyed=False,
    ),
    "complete_by_id": OperationDoc(
        "Put the parts of a file together", "Files",
        {200: ("The file.", models.Uploaded), **BAD_REQUEST, **FORBIDDEN, **BAD_BODY, **STORING},
        body=models.PartList, keyed=False,
    ),
    "file": OperationDoc(
        "An uploaded file", "Files", {200: ("The file.", "*/*"), **NO_FILE}, keyed=False,
    ),
    "video": OperationDoc(
        "A finished video", "Files", {200: ("The video.", "video/mp4"), **NO_FILE}, keyed=False,
    ),
    "stream_token": OperationDoc(
        "A token for a browser to stream with, in place of a key", "Access",
        {201: ("The token.", JSON), **CLOSED, **BAD_BODY}, body=models.StreamTokenRequest,
    ),
    "key_set": OperationDoc(
        "The public key that webhooks are signed with", "Access",
        {200: ("A JSON Web Key Set.", models.KeySet)}, keyed=False,
    ),
    "health": OperationDoc(
        "How the server is", "Server", {200: ("Its state.", models.Health), **UNAVAILABLE},
        keyed=False,
    ),
    "openapi": OperationDoc("This description", "Server", {200: ("OpenAPI.", JSON)}, keyed=False),
    "docs": OperationDoc("A page to read it on", "Server", {200: ("A page.", "text/html")},
                      keyed=False),
}  # fmt: skip


def finish_document(document: dict[str, Any]) -> dict[str, Any]:
    """Correct FastAPI's document: no 422 of its own, patterns of paths, and the scheme of keys."""
    for operations in document["paths"].values():
        for operation in operations.values():
            response = operation["responses"].get("422", {})
            if "HTTPValidationError" in str(response):
                del operation["responses"]["422"]
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    pattern = PATH_PATTERNS[parameter["name"]]
                    parameter["schema"] = {"type": "string", "pattern": pattern}
    components = document.setdefault("components", {})
    for name in ("HTTPValidationError", "ValidationError"):
        components.get("schemas", {}).pop(name, None)
    components["securitySchemes"] = {
        "falKey": {
            "type": "apiKey", "in": "header", "name": "Authorization",
            "description": "Key id:secret",
        },
    }  # fmt: skip
    return document


EndpointFunction = Callable[..., Awaitable[Response]]
"""Called with the request and, by name, the path parameters that it declares."""


class Operations:
    """All operations: their routes, and their OpenAPI document, which FastAPI makes.

    FastAPI serves none of them: through it a poll would cost half as much again.
    """

    def __init__(self) -> None:
        self.routes: list[Route] = []
        self._documented: list[APIRoute] = []

    def add(self, method: str, path: str, call: EndpointFunction, name: str, *others: str) -> None:
        """Add the operation `name` at `path`, and undocumented at the paths `others`.

        Each is served with and without a slash at its end, since not every client follows a
        redirect.
        """
        options = OPERATIONS[name].route(name)
        self._documented.append(
            APIRoute(path, call, methods=[method], response_model=None, **options)
        )
        endpoint = Endpoint(call, frozenset(signature(call).parameters) - {"request", "_"})
        methods = {method} | ({"HEAD"} if method == "GET" and path.startswith("/cdn/") else set())
        for spelling in (path, *others):
            for address in (spelling, f"{spelling}/"):
                route = Route(address, endpoint)
                route.methods = methods  # exactly these: `Route` would add HEAD to every GET
                self.routes.append(route)

    @cached_property
    def document(self) -> dict[str, Any]:
        """The OpenAPI document without the URL of the server."""
        title = "Stable Video Diffusion"
        return finish_document(
            get_openapi(title=title, version=__version__, routes=self._documented)
        )


@dataclass(frozen=True)
class Endpoint:
    """ASGI application of one operation. `path_params`: the names that it declares."""

    function: EndpointFunction
    path_params: frozenset[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        params = scope["path_params"]
        response = await self.function(
            Request(scope, receive, send), **{name: params[name] for name in self.path_params}
        )
        await response(scope, receive, send)
