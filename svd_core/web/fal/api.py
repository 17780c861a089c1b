"""The API as one FastAPI application, to be mounted at `/fal`: every address it has."""

import logging
from collections.abc import Callable, Coroutine, Mapping
from inspect import signature
from typing import Any
from uuid import uuid4

from anyio import to_thread
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from svd_core import __version__
from svd_core.errors import SvdError
from svd_core.web.fal.access import Access
from svd_core.web.fal.answers import Answer, Refusal, of
from svd_core.web.fal.cdn_routes import CdnRoutes
from svd_core.web.fal.described import OPERATIONS, finished
from svd_core.web.fal.docs import DOCS_HEADERS, docs_page
from svd_core.web.fal.parts import Service
from svd_core.web.fal.proxy import Proxy
from svd_core.web.fal.queue_routes import QueueRoutes
from svd_core.web.fal.run_routes import RunRoutes
from svd_core.web.fal.schema import ENDPOINTS
from svd_core.web.fal.storage_routes import StorageRoutes

log = logging.getLogger(__name__)

EXPOSED = (
    "x-fal-request-id", "x-fal-request-timeout-type", "x-fal-error-type", "x-fal-retryable",
    "x-fal-needs-retry", "etag",
)  # fmt: skip

ANYWHERE = ".*"
HERE = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"


class Direct(APIRoute):
    """Hands over requests as they are. All operations read theirs themselves, so that FastAPI has
    to describe them only; looking into each request as well makes a poll cost a third more."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        wanted = signature(self.endpoint).parameters.keys() - {"request", "_"}

        async def handle(request: Request) -> Response:
            given = {name: request.path_params[name] for name in wanted}
            answer: Response = await self.endpoint(request, **given)
            return answer

        return handle


def build_api(service: Service) -> FastAPI:
    """An application that starts nothing by itself."""
    keys = service.parts.keys
    api = FastAPI(
        title="Stable Video Diffusion",
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origin_regex=HERE if keys.open else ANYWHERE,
                allow_methods=["GET", "POST", "PUT"],
                allow_headers=["*"],
                expose_headers=EXPOSED,
            ),
            Middleware(Proxy, origins=service.parts.settings.proxy_origins),
            Middleware(Access, keys=keys, tokens=service.parts.tokens),
        ],
        exception_handlers={
            Refusal: _refused,
            SvdError: _failed,
            HTTPException: _unrouted,
            Exception: _broken,
        },
    )
    api.router.route_class = Direct
    for endpoint in ENDPOINTS:
        _add_queue(api, service, endpoint)
        _add_run(api, service, endpoint)
    _add_storage(api, service)
    _add_cdn(api, service)
    _add_own(api, service)
    return api


def _add(
    api: FastAPI, method: str, path: str, call: Callable[..., Any], name: str, *others: str
) -> None:
    """The operation `name` at `path`, and without a description at `others`; each of them with and
    without a slash at its end, since not every client follows a redirect."""
    described = OPERATIONS[name].route(name)
    api.add_api_route(path, call, methods=[method], response_model=None, **described)
    for spelling in (f"{path}/", *others, *(f"{other}/" for other in others)):
        api.add_api_route(
            spelling, call, methods=[method], response_model=None, include_in_schema=False
        )
    if method == "GET" and path.startswith("/cdn/"):
        api.add_api_route(
            path, call, methods=["HEAD"], response_model=None, include_in_schema=False
        )


def _add_queue(api: FastAPI, service: Service, endpoint: str) -> None:
    routes = QueueRoutes(service, endpoint)
    top = f"/queue/{endpoint}"
    _add(api, "POST", top, routes.submit, "submit")
    for tail, method, call, name in (
        ("/status", "GET", routes.status, "status"),
        ("/status/stream", "GET", routes.stream, "status_stream"),
        ("", "GET", routes.result, "result"),
        ("/cancel", "PUT", routes.cancel, "cancel"),
    ):
        # Some clients keep the rest of a longer endpoint id in these addresses.
        others = [f"{top}/{{rest:path}}/requests/{{request_id}}{tail}"]
        if name == "result":
            others += [f"{top}/requests/{{request_id}}/response", f"{others[0]}/response"]
        path = f"{top}/requests/{{request_id}}{tail}"
        _add(api, method, path, call, name, *others)


def _add_run(api: FastAPI, service: Service, endpoint: str) -> None:
    routes = RunRoutes(service)
    _add(api, "POST", f"/run/{endpoint}", routes.run, "run")
    _add(api, "POST", f"/run/{endpoint}/stream", routes.stream, "run_stream")


def _add_storage(api: FastAPI, service: Service) -> None:
    routes = StorageRoutes(service)
    initiate = "/rest/storage/upload/initiate"
    _add(api, "POST", initiate, routes.initiate, "initiate")
    _add(api, "POST", f"{initiate}-multipart", routes.initiate, "initiate_multipart")
    _add(api, "POST", "/rest/storage/auth/token", routes.cdn_token, "cdn_token")
    _add(api, "POST", "/rest/tokens", routes.stream_token, "stream_token")
    _add(api, "GET", "/rest/.well-known/jwks.json", routes.key_set, "key_set")


def _add_cdn(api: FastAPI, service: Service) -> None:
    routes = CdnRoutes(service)
    upload, file = "/cdn/upload/{folder}/{file}", "/cdn/files/{folder}/{file}"
    parts = f"{file}/multipart/{{upload_id}}"
    _add(api, "PUT", upload, routes.put, "put")
    _add(api, "PUT", f"{upload}/{{number}}", routes.put_part, "put_part")
    _add(api, "POST", f"{upload}/complete", routes.complete, "complete")
    _add(api, "POST", "/cdn/files/upload", routes.upload, "upload")
    _add(api, "POST", "/cdn/files/upload/multipart", routes.begin, "begin")
    _add(api, "PUT", f"{parts}/{{number}}", routes.put_part_by_id, "put_part_by_id")
    _add(api, "POST", f"{parts}/complete", routes.complete_by_id, "complete_by_id")
    _add(api, "GET", file, routes.file, "file")
    _add(api, "GET", "/cdn/videos/{mark}/{file}", routes.video, "video")


def _add_own(api: FastAPI, service: Service) -> None:
    async def health(_: Request) -> Response:
        return Answer(200, await to_thread.run_sync(_health, service)).response()

    async def openapi(request: Request) -> Response:
        return Answer(200, _document(api, service, request)).response()

    async def docs(request: Request) -> Response:
        page = docs_page(_document(api, service, request), service.parts.keys.open)
        return HTMLResponse(page, headers=DOCS_HEADERS)

    _add(api, "GET", "/health", health, "health")
    _add(api, "GET", "/openapi.json", openapi, "openapi")
    _add(api, "GET", "/docs", docs, "docs")


def _document(api: FastAPI, service: Service, request: Request) -> dict[str, Any]:
    document = finished(api.openapi())
    return {**document, "servers": [{"url": service.parts.links.base(request)}]}


def _health(service: Service) -> Mapping[str, Any]:
    status = service.status()
    return {
        "status": "ok" if status.state == "ready" else status.state,
        "queue_length": service.queue.length(),
        "model": status.checkpoint.name,
        "models": status.offer.names,
        "device": status.device,
        "version": __version__,
    }


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _numbered(error.answer)


async def _failed(_: Request, error: Exception) -> Response:
    assert isinstance(error, SvdError)
    return _numbered(of(error))


async def _unrouted(request: Request, error: Exception) -> Response:
    """No such address, or not by this method."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    detail = f"Path {path} not found" if error.status_code == 404 else str(error.detail)
    return Answer(error.status_code, {"detail": detail}, error.headers or {}).response()


async def _broken(_: Request, error: Exception) -> Response:
    log.error("A request to the API ended by an unforeseen error.", exc_info=error)
    return _numbered(Answer(500, {"detail": "Internal Server Error"}))


def _numbered(answer: Answer) -> Response:
    """An error of ours carries an id in any case: clients take one without for a gateway's."""
    return answer.response(uuid4().hex if answer.status >= 500 else None)
