"""ASGI application of the API: routes, middleware and error handlers."""

import logging
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from svd_core import __version__
from svd_core.errors import SvdError
from svd_core.web.fal.auth import AuthMiddleware, Proxy
from svd_core.web.fal.dependencies import ApiService
from svd_core.web.fal.docs import DOCS_HEADERS, docs_page
from svd_core.web.fal.file_routes import FileRoutes, StorageRoutes
from svd_core.web.fal.job_routes import QueueRoutes, RunRoutes
from svd_core.web.fal.openapi import Operations
from svd_core.web.fal.responses import ApiError, ApiResponse, error_response
from svd_core.web.snippets import ENDPOINTS

log = logging.getLogger(__name__)

EXPOSED_HEADERS = (
    "x-fal-request-id", "x-fal-request-timeout-type", "x-fal-error-type", "x-fal-retryable",
    "x-fal-needs-retry", "etag",
)  # fmt: skip

WAITING_DEVICE = "waits for a GPU machine"

ANY_ORIGIN = ".*"
LOCAL_ORIGIN = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"


def build_api(service: ApiService) -> Starlette:
    """Build the application, which is mounted at `MOUNT`. It starts nothing."""
    keys = service.context.keys
    operations = Operations()
    for endpoint in ENDPOINTS:
        _add_queue(operations, service, endpoint)
        _add_run(operations, service, endpoint)
    _add_storage(operations, service)
    _add_cdn(operations, service)
    _add_meta(operations, service)
    api = Starlette(
        routes=operations.routes,
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
        ],
        exception_handlers={
            ApiError: _on_api_error,
            SvdError: _on_svd_error,
            HTTPException: _on_http_error,
            Exception: _on_unforeseen_error,
        },
    )
    api.router.redirect_slashes = False  # every URL is served with a slash at its end, too
    return api


def _add_queue(operations: Operations, service: ApiService, endpoint: str) -> None:
    add = operations.add
    routes = QueueRoutes(service, endpoint)
    prefix = f"/queue/{endpoint}"
    add("POST", prefix, routes.submit, "submit")
    for suffix, method, call, name in (
        ("/status", "GET", routes.status, "status"),
        ("/status/stream", "GET", routes.stream, "status_stream"),
        ("", "GET", routes.result, "result"),
        ("/cancel", "PUT", routes.cancel, "cancel"),
    ):
        # Some clients keep the rest of a longer endpoint id in these URLs.
        others = [f"{prefix}/{{rest:path}}/requests/{{request_id}}{suffix}"]
        if name == "result":
            others += [f"{prefix}/requests/{{request_id}}/response", f"{others[0]}/response"]
        path = f"{prefix}/requests/{{request_id}}{suffix}"
        add(method, path, call, name, *others)


def _add_run(operations: Operations, service: ApiService, endpoint: str) -> None:
    add = operations.add
    routes = RunRoutes(service)
    add("POST", f"/run/{endpoint}", routes.run, "run")
    add("POST", f"/run/{endpoint}/stream", routes.stream, "run_stream")


def _add_storage(operations: Operations, service: ApiService) -> None:
    add = operations.add
    routes = StorageRoutes(service)
    initiate = "/rest/storage/upload/initiate"
    add("POST", initiate, routes.initiate, "initiate")
    add("POST", f"{initiate}-multipart", routes.initiate, "initiate_multipart")
    add("POST", "/rest/storage/auth/token", routes.cdn_token, "cdn_token")
    add("POST", "/rest/tokens", routes.stream_token, "stream_token")
    add("GET", "/rest/.well-known/jwks.json", routes.key_set, "key_set")


def _add_cdn(operations: Operations, service: ApiService) -> None:
    add = operations.add
    routes = FileRoutes(service)
    upload, file = "/cdn/upload/{folder}/{file}", "/cdn/files/{folder}/{file}"
    multipart = f"{file}/multipart/{{upload_id}}"
    add("PUT", upload, routes.put, "put")
    add("PUT", f"{upload}/{{number}}", routes.put_part, "put_part")
    add("POST", f"{upload}/complete", routes.complete, "complete")
    add("POST", "/cdn/files/upload", routes.upload, "upload")
    add("POST", "/cdn/files/upload/multipart", routes.begin, "begin")
    add("PUT", f"{multipart}/{{number}}", routes.put_part_by_id, "put_part_by_id")
    add("POST", f"{multipart}/complete", routes.complete_by_id, "complete_by_id")
    add("GET", file, routes.file, "file")
    add("GET", "/cdn/videos/{mark}/{file}", routes.video, "video")


def _add_meta(operations: Operations, service: ApiService) -> None:
    async def health(_: Request) -> Response:
        return ApiResponse(200, await to_thread.run_sync(_health, service)).to_response()

    def document(request: Request) -> dict[str, Any]:
        servers = [{"url": service.context.urls.base(request)}]
        return {**operations.document, "servers": servers}

    async def openapi(request: Request) -> Response:
        return ApiResponse(200, document(request)).to_response()

    async def docs(request: Request) -> Response:
        page = docs_page(document(request), service.context.keys.open)
        return HTMLResponse(page, headers=DOCS_HEADERS)

    operations.add("GET", "/health", health, "health")
    operations.add("GET", "/openapi.json", openapi, "openapi")
    operations.add("GET", "/docs", docs, "docs")


def _health(service: ApiService) -> Mapping[str, Any]:
    status = service.status()
    return {
        "status": "ok" if status.state == "ready" else status.state,
        "queue_length": service.queue.length(),
        "model": status.checkpoint.name,
        "models": status.catalog.names,
        "device": WAITING_DEVICE if status.waits_for_machine else status.device,
        "version": __version__,
    }


async def _on_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _with_request_id(error.response)


async def _on_svd_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, SvdError)
    return _with_request_id(error_response(error))


async def _on_http_error(request: Request, error: Exception) -> Response:
    """The response to an unknown path or method."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    detail = f"Path {path} not found" if error.status_code == 404 else str(error.detail)
    return ApiResponse(error.status_code, {"detail": detail}, error.headers or {}).to_response()


async def _on_unforeseen_error(_: Request, error: Exception) -> Response:
    log.error("A request to the API ended by an unforeseen error.", exc_info=error)
    return _with_request_id(ApiResponse(500, {"detail": "Internal Server Error"}))


def _with_request_id(response: ApiResponse) -> Response:
    """Add an id to errors of the server: clients take one without for a gateway's error."""
    return response.to_response(uuid4().hex if response.status >= 500 else None)
