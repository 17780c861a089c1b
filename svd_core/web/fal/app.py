"""ASGI application of the API: routes, middleware and error handlers."""

import logging
from functools import partial
from typing import Any
from uuid import uuid4

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from svd_core import __version__
from svd_core.errors import SvdError
from svd_core.web.fal.auth import AuthMiddleware, Proxy
from svd_core.web.fal.dependencies import ApiService
from svd_core.web.fal.docs import DOCS_HEADERS, docs_page
from svd_core.web.fal.file_routes import add_file_routes, add_storage_routes
from svd_core.web.fal.job_routes import add_queue_routes, add_run_routes
from svd_core.web.fal.models import Health, InvalidInput
from svd_core.web.fal.openapi import UNAVAILABLE, FalApi
from svd_core.web.fal.responses import (
    CLIENT_DISCONNECTED,
    ApiError,
    ApiResponse,
    error_response,
    input_error,
    request_error,
)
from svd_core.web.fal.submit import bad_request
from svd_core.web.request_body import BodyError
from svd_core.web.snippets import ENDPOINTS

log = logging.getLogger(__name__)

EXPOSED_HEADERS = (
    "x-fal-request-id", "x-fal-request-timeout-type", "x-fal-error-type", "x-fal-retryable",
    "x-fal-needs-retry", "etag",
)  # fmt: skip

WAITING_DEVICE = "waits for a GPU machine"

ANY_ORIGIN = ".*"
LOCAL_ORIGIN = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"


def build_api(service: ApiService) -> FalApi:
    """Build the application, which is mounted at `MOUNT`. It starts nothing."""
    keys = service.context.keys
    api = FalApi(
        title="Stable Video Diffusion",
        version=__version__,
        openapi_url=None,  # `_add_meta_routes` serves it, with the server's URL
        redirect_slashes=False,  # not every client follows a redirect
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origin_regex=LOCAL_ORIGIN if keys.open else ANY_ORIGIN,
                allow_methods=["GET", "POST", "PUT"],
                allow_headers=["*"],
                expose_headers=EXPOSED_HEADERS,
            ),
            Middleware(Proxy, origins=service.context.settings.proxy_origins),
            Middleware(AuthMiddleware, keys=keys, tokens=service.context.tokens),
            Middleware(TrailingSlashMiddleware),
        ],
        exception_handlers=dict.fromkeys(ERRORS, _on_error),
    )
    for endpoint in ENDPOINTS:
        add_queue_routes(api, service, endpoint)
        add_run_routes(api, service, endpoint)
    add_storage_routes(api, service.context)
    add_file_routes(api, service.context)
    _add_meta_routes(api, service)
    return api


class TrailingSlashMiddleware:
    """ASGI middleware that serves every path with a slash at its end, too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if path.endswith("/") and path != f"{scope.get('root_path', '')}/":
            scope = {**scope, "path": path[:-1]}
        await self.app(scope, receive, send)


def _add_meta_routes(api: FalApi, service: ApiService) -> None:
    serve = partial(api.serve, tag="Server")

    def document(request: Request) -> dict[str, Any]:
        return {**api.openapi(), "servers": [{"url": service.context.urls.base(request)}]}

    @serve("GET", "/health", UNAVAILABLE)
    def health() -> Health:
        """Get the state of the server."""
        status = service.status()
        return Health(
            status="ok" if status.state == "ready" else status.state,
            queue_length=service.queue.length(),
            model=status.checkpoint.name,
            models=list(status.catalog.names),
            device=WAITING_DEVICE if status.waits_for_machine else status.device,
            version=__version__,
        )

    @serve("GET", "/openapi.json")
    async def openapi(request: Request) -> dict[str, Any]:
        """Get this description."""
        return document(request)

    @serve("GET", "/docs", content="text/html")
    async def docs(request: Request) -> Response:
        """Read this description as a page."""
        page = docs_page(document(request), service.context.keys.open)
        return HTMLResponse(page, headers=DOCS_HEADERS)


ERRORS = (
    ApiError, BodyError, InvalidInput, RequestValidationError, SvdError, HTTPException, Exception
)  # fmt: skip


async def _on_error(request: Request, error: Exception) -> Response:
    match error:
        case ApiError(response=response):
            pass
        case BodyError(status=499):
            response = CLIENT_DISCONNECTED
        case BodyError(status=status, message=message):  # the rest of the body is never read
            response = request_error(status, message, "bad_request", {"Connection": "close"})
        case InvalidInput(details=details):
            response = input_error(details)
        case RequestValidationError():
            first = error.errors()[0]
            response = bad_request(f"{first['loc'][-1]}: {first['msg']}.").response
        case SvdError():
            response = error_response(error)
        case HTTPException(status_code=status):
            path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
            detail = f"Path {path} not found" if status == 404 else str(error.detail)
            response = ApiResponse(status, {"detail": detail}, error.headers or {})
        case _:
            log.error("An API request failed unexpectedly. Please report this.", exc_info=error)
            response = ApiResponse(500, {"detail": "Internal Server Error"})
    # Without an id, clients mistake a server error for one of a gateway.
    return response.to_response(uuid4().hex if response.status >= 500 else None)
