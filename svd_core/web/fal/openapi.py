"""Description of the API: the application that FastAPI serves, and the parts its routes share.

Each route declares its parameters, its body and every response. FastAPI serves it and describes
it in the OpenAPI document from the same declaration.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Path, Query, Security
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, APIKeyQuery
from pydantic import BaseModel, TypeAdapter
from starlette.requests import HTTPConnection
from starlette.responses import Response

from svd_core.web.fal import models
from svd_core.web.fal.auth import owner_of

JSON = "application/json"
EVENTS = "text/event-stream"
OCTETS = "application/octet-stream"
BINARY = {"schema": {"type": "string", "format": "binary"}}

Responses = dict[int | str, dict[str, Any]]
"""FastAPI's `responses`: description and model, or content, by status."""


def error(description: str, model: type[BaseModel] = models.RequestError) -> dict[str, Any]:
    """An error response."""
    return {"description": description, "model": model}


CLOSED: Responses = {
    401: error("The key is missing or unknown."),
    403: error("The call comes from another machine or origin, and the server has no keys."),
}
UNAVAILABLE: Responses = {
    500: error("The server's disk is full."),
    503: error("The server cannot do this right now."),
}
UNKNOWN: Responses = {404: error("No such request, or it has expired.", models.NotFound)}
BAD_REQUEST: Responses = {400: error("A header or the query is wrong.")}
BAD_BODY: Responses = {
    413: error("The body is too large."),
    422: error("The body is wrong.", models.InputError),
}
BUSY: Responses = {429: error("Too many requests are waiting.")}
OUTCOMES: Responses = {
    422: error("The input was wrong, or the photo cannot be used.", models.InputError),
    499: error("The request was cancelled."),
    500: error("No video could be made."),
    504: error("The request did not start within its x-fal-request-timeout."),
}
FORBIDDEN: Responses = {403: error("The upload is not permitted.")}
STORING: Responses = {
    413: error("The file or all files of the key are too large."),
    499: error("The client disconnected."),
    500: error("The server's disk is full."),
}
NO_FILE: Responses = {404: error("No such file, or it has expired.")}


class KeyHeader(APIKeyHeader):
    """Security scheme of the keys. `AuthMiddleware` checks the key; this gives the routes its id.

    The middleware runs first, so the body of a caller without a key is never read.
    """

    def __init__(self) -> None:
        super().__init__(name="Authorization", scheme_name="falKey", description="Key id:secret")

    async def __call__(self, request: HTTPConnection) -> str:
        return owner_of(request)


Owner = Annotated[str, Security(KeyHeader())]
"""Id of the caller's key; empty on a server without keys."""


STREAM_TOKEN = APIKeyQuery(
    name="fal_jwt_token", scheme_name="falStreamToken", auto_error=False,
    description="A token from /rest/tokens, in place of a key.",
)  # fmt: skip


def _text(pattern: str) -> Any:
    """A path parameter. The routes check it; for most, a wrong one is an unknown one."""
    return Path(json_schema_extra={"pattern": pattern})


RequestId = Annotated[str, _text("^[A-Za-z0-9-]{1,64}$")]
Folder = Annotated[str, _text("^[0-9a-f]{8}$")]
File = Annotated[str, _text(r"^[0-9a-f]{32}\.[a-z0-9]{3,4}$")]
Signature = Annotated[str, _text("^[0-9a-f]{32}$")]
UploadId = Annotated[str, _text(r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$")]
PartNumber = Annotated[str, _text("^[1-9][0-9]{0,3}$")]
Token = Annotated[str, Query(description="The token that is part of the upload_url.")]
Logs = Annotated[
    str,
    Query(
        description="Whether to include the log.",
        json_schema_extra={"enum": ["0", "1", "true", "false"]},
    ),
]


Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class FalApi(FastAPI):
    """FastAPI whose operations are described in one line each, and served at several paths."""

    def serve(
        self,
        method: str,
        path: str,
        *errors: Responses,
        tag: str,
        also: Sequence[str] = (),
        body: type | str | None = None,
        content: str | None = None,
        route_class: type[APIRoute] = APIRoute,
        **options: Any,
    ) -> Callable[[Endpoint], Endpoint]:
        """Decorator that serves an endpoint at `path`, and undescribed at the paths `also`.

        Its name is the id of the operation, its docstring the description, and what it returns the
        model of the response. `content`: the media type of a response that is not JSON. `body`: of
        the request, which the endpoint reads itself: FastAPI has no limits of size and time.
        `options`: of FastAPI's `add_api_route`.
        """
        options["responses"] = {status: each for part in errors for status, each in part.items()}
        if content is not None:
            options["responses"][200] = {"content": {content: {} if content == EVENTS else BINARY}}
            options["response_class"] = Response
        if body is not None:
            media, described = JSON, BINARY
            if isinstance(body, str):
                media = body
            else:
                described = {"schema": TypeAdapter(body).json_schema()}
            request_body = {"content": {media: described}, "required": True}
            options["openapi_extra"] = {"requestBody": request_body}
        addresses = [(method, each) for each in (path, *also)]
        if method == "GET" and path.startswith("/cdn/"):
            addresses.append(("HEAD", path))

        def add(endpoint: Endpoint) -> Endpoint:
            for verb, address in addresses:
                self.router.add_api_route(
                    address,
                    endpoint,
                    methods=[verb],
                    tags=[tag],
                    operation_id=endpoint.__name__,
                    include_in_schema=(verb, address) == addresses[0],
                    route_class_override=route_class,
                    **options,
                )
            return endpoint

        return add

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, without the 422 that FastAPI adds to routes with parameters.

        The response to wrong parameters is a 400 here.
        """
        if self.openapi_schema is None:
            document = super().openapi()
            for operations in document["paths"].values():
                for operation in operations.values():
                    if "HTTPValidationError" in str(operation["responses"].get("422")):
                        del operation["responses"]["422"]
            for name in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(name, None)
        return super().openapi()
