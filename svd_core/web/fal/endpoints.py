"""Endpoints: the routes that are served, and their description for OpenAPI."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import Any

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from svd_core import __version__
from svd_core.web.fal.openapi import OPERATIONS, finish_document

EndpointFunction = Callable[..., Awaitable[Response]]
"""Called with the request and, by name, the path parameters that it declares."""


class Operations:
    """FastAPI describes them only. They read their requests themselves, and through FastAPI a poll,
    of which there are many, would cost half as much again."""

    def __init__(self) -> None:
        self.routes: list[Route] = []
        self._described: list[APIRoute] = []

    def add(self, method: str, path: str, call: EndpointFunction, name: str, *others: str) -> None:
        """The operation `name` at `path`, and without a description at `others`; each of them with
        and without a slash at its end, since not every client follows a redirect."""
        described = OPERATIONS[name].route(name)
        self._described.append(
            APIRoute(path, call, methods=[method], response_model=None, **described)
        )
        served = Endpoint(call, frozenset(signature(call).parameters) - {"request", "_"})
        methods = {method} | ({"HEAD"} if method == "GET" and path.startswith("/cdn/") else set())
        for spelling in (path, *others):
            for address in (spelling, f"{spelling}/"):
                route = Route(address, served)
                route.methods = methods  # as they are; it would answer HEAD wherever it does GET
                self.routes.append(route)

    @cached_property
    def document(self) -> dict[str, Any]:
        """OpenAPI, less the address of the server."""
        title = "Stable Video Diffusion"
        return finish_document(
            get_openapi(title=title, version=__version__, routes=self._described)
        )


@dataclass(frozen=True)
class Endpoint:
    """ASGI application of one operation. `path_params`: those that it takes."""

    function: EndpointFunction
    path_params: frozenset[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        params = scope["path_params"]
        response = await self.function(
            Request(scope, receive, send), **{name: params[name] for name in self.path_params}
        )
        await response(scope, receive, send)
