"""Public address: the URL at which visitors find this server, resolved once for each request.

Everything that builds a URL takes it from here: the page, Gradio, the API, links, code and
webhooks. It is `SVD_PUBLIC_URL` or the Space's address. Without these, the headers of a trusted
proxy decide, and without a proxy the address that was called.
"""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from svd_core.errors import InvalidSettings
from svd_core.messages import Message
from svd_core.settings import Settings, canonical_url, space_url
from svd_core.web.proxy_headers import (
    NETLOC,
    X_FORWARDED,
    forwarded_elements,
    plain_address,
    public_parts,
    trusted_proxies,
)

ROOT_PATH = "GRADIO_ROOT_PATH"
ADDRESS_KEY = "svd.public_address"
"""Key of the resolved URL in an ASGI scope."""

ADDRESS_HEADERS = frozenset(
    {b"host", b"forwarded", b"x-gradio-server", *(name.encode() for name in X_FORWARDED)}
)
"""Headers that name the address of this server. Gradio would read some of them by itself."""


def configured_url(settings: Settings) -> str:
    """The public URL from the settings, without a slash at the end; empty if there is none.

    Gradio's own `GRADIO_ROOT_PATH` counts if it is a URL.
    """
    root = os.environ.get(ROOT_PATH, "")
    with suppress(ValueError):
        return settings.public_url or space_url() or canonical_url(root)
    return ""


def configured_prefix() -> str:
    """The path below which visitors find this server, if `GRADIO_ROOT_PATH` is only a path.

    Raises `InvalidSettings` if it is neither a path nor a URL.
    """
    root = os.environ.get(ROOT_PATH, "").strip()
    try:
        if re.match(r"https?://", root):
            canonical_url(root)  # which `configured_url` takes
            return ""
        if re.match(r"//|[^/]*[.:]", root):
            raise ValueError(Message("reason_host_without_scheme"))
        return urlsplit(canonical_url(f"http://localhost/{root}")).path
    except ValueError as error:
        (reason,) = error.args
        raise InvalidSettings("root_path_invalid", variable=ROOT_PATH, reason=reason) from error


class PublicAddress:
    """Resolver of the public URL. `url`: the configured one, or empty. `prefix`: its default path.

    `trusted`: see `trusted_proxies`.
    """

    def __init__(self, url: str, *, prefix: str = "", trusted: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._prefix = prefix
        # No application: only its list of addresses is used.
        proxies = ProxyHeadersMiddleware(None, trusted or trusted_proxies())  # type: ignore[arg-type]
        self._trusted = proxies.trusted_hosts

    @classmethod
    def from_settings(cls, settings: Settings) -> "PublicAddress":
        return cls(configured_url(settings), prefix=configured_prefix())

    def resolve(self, scope: Scope) -> str:
        """The URL of the page for the sender of a request, without a slash at the end."""
        resolved: str | None = scope.get(ADDRESS_KEY)
        return self._url or self._called(scope) if resolved is None else resolved

    def locate(self, scope: Scope) -> Scope:
        """A scope whose `root_path` is the public path, whether or not a proxy removes that.

        The resolved URL is in it under `ADDRESS_KEY`.
        """
        url = self.resolve(scope)
        quoted = urlsplit(url).path
        prefix = unquote(quoted)
        path, raw = scope["path"], scope.get("raw_path") or quote(scope["path"]).encode()
        if path != prefix and not path.startswith(f"{prefix}/"):
            path, raw = prefix + path, quoted.encode() + raw
        return {**scope, "path": path, "raw_path": raw, "root_path": prefix, ADDRESS_KEY: url}

    def _called(self, scope: Scope) -> str:
        """The URL that was called, as the headers of a trusted proxy or of the request say."""
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            if name in ADDRESS_HEADERS:
                headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        netloc = headers.pop("host", "")
        called = {"proto": scope["scheme"], "host": netloc, "prefix": self._prefix}
        if headers and plain_address((scope.get("client") or ("",))[0]) in self._trusted:
            with suppress(ValueError):  # a port that does not exist, or a path of this server
                return canonical_url(_join(called | public_parts(headers, netloc), scope))
        return _join(called, scope)


def _join(parts: Mapping[str, str], scope: Scope) -> str:
    """Join the parts of a URL. The address of the connection replaces an invalid host."""
    netloc = parts["host"]
    if not NETLOC.fullmatch(netloc):
        host, port = scope.get("server") or ("127.0.0.1", None)
        host = f"[{host}]" if ":" in host else host
        netloc = f"{host}:{port}" if port else host
    return f"{parts['proto']}://{netloc}{parts['prefix']}"


def route_path(scope: Scope) -> str:
    """Path of a request inside this server, without the public path in front."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


class PublicAddressMiddleware:
    """The outermost ASGI middleware: resolves the public URL, then the visitor's address.

    It must see the peer of the connection, so nothing in front may replace that.
    """

    def __init__(self, app: ASGIApp, address: PublicAddress) -> None:
        self._app: Any = ProxyHeadersMiddleware(app, trusted_proxies())  # type: ignore[arg-type]
        self._address = address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        located = with_plain_peers(self._address.locate(scope))
        if located["root_path"] and not route_path(located):  # relative links need the slash
            query = scope["query_string"].decode("latin-1")
            target = f"{located[ADDRESS_KEY]}/{'?' if query else ''}{query}"
            await RedirectResponse(target, 308)(scope, receive, send)
            return
        await self._app(located, receive, send)


def with_plain_peers(scope: Scope) -> Scope:
    """A scope whose peer and visitor are in the only form that uvicorn knows.

    That is IPv4 as IPv4, and the visitor in `X-Forwarded-For` even if a proxy sends `Forwarded`.
    """
    headers = dict(scope["headers"])
    if b"forwarded" in headers and b"x-forwarded-for" not in headers:
        elements = forwarded_elements(headers[b"forwarded"].decode("latin-1"))
        visitors = [element["for"] for element in elements if element.get("for")]
        if visitors:
            added = (b"x-forwarded-for", ", ".join(visitors).encode("latin-1"))
            scope = {**scope, "headers": [*scope["headers"], added]}
    if client := scope.get("client"):
        scope = {**scope, "client": (plain_address(client[0]), client[1])}
    return scope


class PublicHostMiddleware:
    """ASGI middleware in front of Gradio: the public URL in place of all headers that name one.

    Gradio builds most URLs from the scheme, the Host header and `root_path`. Responses of unqueued
    events lack `root_path`, unless `X-Gradio-Server` names the whole URL.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if ADDRESS_KEY in scope:
            url = urlsplit(scope[ADDRESS_KEY])
            headers = [
                (b"host", url.netloc.encode("latin-1")),
                (b"x-gradio-server", scope[ADDRESS_KEY].encode("latin-1")),
                *(pair for pair in scope["headers"] if pair[0] not in ADDRESS_HEADERS),
            ]
            scope = {**scope, "scheme": url.scheme, "headers": headers}
        await self._app(scope, receive, send)
