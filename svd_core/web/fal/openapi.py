"""The description of every operation for `/openapi.json`: what it takes, and each way it may end.

Longer than other files: it is one table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response

from svd_core.web.fal import response_models
from svd_core.web.fal.models import VideoInput, VideoOutput

JSON = "application/json"
Told = type[BaseModel] | str
"""A body: its model, or its media type where it is no JSON."""

Answers = Mapping[int, tuple[str, Told]]
"""(description, body) by status."""

UNAUTHORIZED: Answers = {401: ("No key, or no such key.", response_models.RequestError)}
CLOSED: Answers = {
    **UNAUTHORIZED,
    403: (
        "A web page of another origin, while the server has no keys.",
        response_models.RequestError,
    ),
}
UNAVAILABLE: Answers = {
    500: ("The server's disk is full.", response_models.RequestError),
    503: ("The server cannot do it now.", response_models.RequestError),
}
UNKNOWN: Answers = {404: ("No such request, or its time is over.", response_models.NotFound)}
BAD: Answers = {400: ("A header or the query is wrong.", response_models.RequestError)}
NO_JSON: Answers = {
    413: ("The body is too large.", response_models.RequestError),
    422: ("The body is wrong.", response_models.InputError),
}
BUSY: Answers = {429: ("Too many requests wait.", response_models.RequestError)}
ENDS: Answers = {
    422: ("The input was wrong, or the photo cannot be used.", response_models.InputError),
    499: ("The request was cancelled.", response_models.RequestError),
    500: ("No video could be made.", response_models.RequestError),
    504: (
        "The request did not start within its x-fal-request-timeout.",
        response_models.RequestError,
    ),
}
FORBIDDEN: Answers = {403: ("The upload is not permitted.", response_models.RequestError)}
STORING: Answers = {
    413: ("More than a file or a key may have.", response_models.RequestError),
    499: ("The client went away.", response_models.RequestError),
    500: ("The disk is full.", response_models.RequestError),
}
NO_FILE: Answers = {404: ("No such file, or its time is over.", response_models.RequestError)}
EVENTS = "text/event-stream"


@dataclass(frozen=True)
class Described:
    """`keyed`: whether a key is needed. `body`: see `Told`, or None where none is taken."""

    summary: str
    tag: str
    answers: Answers
    headers: tuple[str, ...] = ()
    query: tuple[str, ...] = ()
    body: Told | None = None
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
            "responses": {status: _response(*told) for status, told in self.answers.items()},
            "openapi_extra": extra,
        }


def _response(description: str, told: Told) -> dict[str, Any]:
    if isinstance(told, str):
        return {"description": description, "content": _content(told)}
    return {"description": description, "model": told}


def _content(told: Told) -> dict[str, Any]:
    if isinstance(told, str):
        binary = {"schema": {"type": "string", "format": "binary"}}
        return {told: {} if told == EVENTS else binary}
    return {JSON: {"schema": told.model_json_schema()}}


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

PATHS: Mapping[str, str] = {
    "request_id": "^[A-Za-z0-9-]{1,64}$",
    "folder": "^[0-9a-f]{8}$",
    "file": r"^[0-9a-f]{32}\.[a-z0-9]{3,4}$",
    "mark": "^[0-9a-f]{32}$",
    "number": "^[1-9][0-9]{0,3}$",
    "upload_id": r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$",
}
"""Of what form the parts of addresses are that this server gives out."""

RUN_HEADERS = ("x-fal-request-timeout", "x-fal-object-lifecycle-preference")

OPERATIONS: Mapping[str, Described] = {
    "submit": Described(
        "Put a request in line; wrong input is told by its result", "Queue",
        {200: ("In line.", response_models.Submitted), **BAD, **CLOSED, **NO_JSON, **BUSY,
         **UNAVAILABLE},
        headers=("x-fal-queue-priority", *RUN_HEADERS),
        query=("fal_webhook", "fal_max_queue_length"), body=VideoInput,
    ),
    "status": Described(
        "How a request goes", "Queue",
        {200: ("It has ended.", response_models.QueueStatus),
         202: ("It waits or runs.", response_models.QueueStatus),
         **CLOSED, **UNKNOWN, **UNAVAILABLE}, query=("logs",),
    ),
    "status_stream": Described(
        "How a request goes, at every change, each with the new lines of the log", "Queue",
        {200: ("Statuses, the last one COMPLETED.", EVENTS), **CLOSED, **UNKNOWN, **UNAVAILABLE},
        query=("logs", "fal_jwt_token"),
    ),
    "result": Described(
        "The video, or why there is none; also at .../response", "Queue",
        {200: ("The video.", VideoOutput), 400: ("It has not ended yet.", response_models.Plain),
         **CLOSED, **UNKNOWN, **UNAVAILABLE, **ENDS},
    ),
    "cancel": Described(
        "Cancel a request that waits or runs", "Queue",
        {202: ("It will end.", response_models.Cancelling),
         400: ("It has ended.", response_models.TooLate), **CLOSED, **UNKNOWN, **UNAVAILABLE},
    ),
    "run": Described(
        "Make a video and wait for it", "Run",
        {200: ("The video.", VideoOutput), **BAD, **CLOSED, **NO_JSON, **BUSY,
         **UNAVAILABLE, **ENDS, 404: ("The video's time is over.", response_models.NotFound)},
        headers=RUN_HEADERS, query=("fal_max_queue_length",), body=VideoInput,
    ),
    "run_stream": Described(
        "Make a video and tell how it goes; the last event is the video", "Run",
        {200: ("Progress, then the video or an error.", EVENTS), **BAD, **CLOSED, **NO_JSON,
         **BUSY, **UNAVAILABLE},
        headers=RUN_HEADERS, query=("fal_max_queue_length", "fal_jwt_token"), body=VideoInput,
    ),
    "initiate": Described(
        "Where to send a file", "Files",
        {200: ("Two addresses.", response_models.UploadPermit), **BAD, **CLOSED, **NO_JSON},
        headers=("x-fal-object-lifecycle",), body=response_models.UploadWish,
    ),
    "initiate_multipart": Described(
        "Where to send a big file, part by part", "Files",
        {200: ("Two addresses.", response_models.UploadPermit), **BAD, **CLOSED, **NO_JSON},
        headers=("x-fal-object-lifecycle",), body=response_models.UploadWish,
    ),
    "put": Described(
        "Send a file to its upload_url", "Files",
        {200: ("Stored.", response_models.Stored), **FORBIDDEN, **STORING}, query=("token",),
        body="application/octet-stream", keyed=False,
    ),
    "put_part": Described(
        "Send a part of a file", "Files",
        {200: ("Stored.", response_models.PartStored), **BAD, **FORBIDDEN, **STORING},
        query=("token",), body="application/octet-stream", keyed=False,
    ),
    "complete": Described(
        "Put the parts of a file together", "Files",
        {200: ("The file.", response_models.Uploaded), **BAD, **FORBIDDEN, **NO_JSON, **STORING},
        query=("token",), body=response_models.PartList, keyed=False,
    ),
    "cdn_token": Described(
        "A token for uploads", "Files", {200: ("The token.", response_models.CdnToken), **CLOSED},
    ),
    "upload": Described(
        "Send a file, by a token or a key", "Files",
        {200: ("Its address.", response_models.Uploaded), **BAD, **CLOSED, **STORING},
        headers=("x-fal-file-name", "x-fal-object-lifecycle"), body="application/octet-stream",
    ),
    "begin": Described(
        "Begin to send a big file, by a token or a key", "Files",
        {200: ("Its address, and the id of the upload.", response_models.Begun), **BAD, **CLOSED},
        headers=("x-fal-file-name", "x-fal-object-lifecycle"),
    ),
    "put_part_by_id": Described(
        "Send a part of a file", "Files",
        {200: ("Stored.", response_models.PartStored), **BAD, **FORBIDDEN, **STORING},
        body="application/octet-stream", keyed=False,
    ),
    "complete_by_id": Described(
        "Put the parts of a file together", "Files",
        {200: ("The file.", response_models.Uploaded), **BAD, **FORBIDDEN, **NO_JSON, **STORING},
        body=response_models.PartList, keyed=False,
    ),
    "file": Described(
        "An uploaded file", "Files", {200: ("The file.", "*/*"), **NO_FILE}, keyed=False,
    ),
    "video": Described(
        "A finished video", "Files", {200: ("The video.", "video/mp4"), **NO_FILE}, keyed=False,
    ),
    "stream_token": Described(
        "A token for a browser to stream with, in place of a key", "Access",
        {201: ("The token.", JSON), **CLOSED, **NO_JSON}, body=response_models.StreamTokenWish,
    ),
    "key_set": Described(
        "The public key that webhooks are signed with", "Access",
        {200: ("A JSON Web Key Set.", response_models.KeySet)}, keyed=False,
    ),
    "health": Described(
        "How the server is", "Server", {200: ("Its state.", response_models.Health), **UNAVAILABLE},
        keyed=False,
    ),
    "openapi": Described("This description", "Server", {200: ("OpenAPI.", JSON)}, keyed=False),
    "docs": Described("A page to read it on", "Server", {200: ("A page.", "text/html")},
                      keyed=False),
}  # fmt: skip


def finished(document: dict[str, Any]) -> dict[str, Any]:
    """What FastAPI made of the routes, less what it takes for granted, and with how keys go."""
    for operations in document["paths"].values():
        for operation in operations.values():
            found = operation["responses"].get("422", {})
            if "HTTPValidationError" in str(found):
                del operation["responses"]["422"]
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    pattern = PATHS[parameter["name"]]
                    parameter["schema"] = {"type": "string", "pattern": pattern}
    parts = document.setdefault("components", {})
    for name in ("HTTPValidationError", "ValidationError"):
        parts.get("schemas", {}).pop(name, None)
    parts["securitySchemes"] = {
        "falKey": {
            "type": "apiKey", "in": "header", "name": "Authorization",
            "description": "Key id:secret",
        },
    }  # fmt: skip
    return document
