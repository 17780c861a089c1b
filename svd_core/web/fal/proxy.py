"""`/proxy`: stand-in for the server proxy that fal's browser clients expect.

They name the address they mean in a header; if it is one of fal's, its counterpart here answers.
"""

from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from svd_core.web.fal.auth import OWNER_KEY
from svd_core.web.fal.responses import request_error

TARGET = "x-fal-target-url"

HOSTS: Mapping[str, str] = {
    "queue.fal.run": "/queue",
    "fal.run": "/run",
    "rest.fal.ai": "/rest",
    "rest.alpha.fal.ai": "/rest",
}

WEB_PAGE = "@proxy"
"""The caller's id where a web page of an allowed origin came without a key: they share limits."""

ABSENT = request_error(400, f"The header {TARGET} is missing.", "bad_request")
UNKNOWN = request_error(400, f"{TARGET} must lead to one of {', '.join(HOSTS)}.", "bad_request")


class Proxy:
    """ASGI middleware around the whole API: sends what comes to `/proxy` to where it belongs.

    A request without a key is let in only from a web page of `origins`, which browsers cannot lie
    about; other programs can, so that an origin is to be listed only with that in mind.
    """

    def __init__(self, app: ASGIApp, origins: str) -> None:
        self.app = app
        self._origins = {origin.strip() for origin in origins.split(",") if origin.strip()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root = scope.get("root_path", "")
        if scope["type"] != "http" or scope["path"].removeprefix(root) not in ("/proxy", "/proxy/"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["method"] == "OPTIONS":
            await self.app(scope, receive, send)
        elif TARGET not in headers:
            await ABSENT.to_response()(scope, receive, send)
        elif (inner := self._route(scope, headers, root)) is None:
            await UNKNOWN.to_response()(scope, receive, send)
        else:
            await self.app(inner, receive, send)

    def _route(self, scope: Scope, headers: Headers, root: str) -> Scope | None:
        """`scope` as if it had come to its counterpart here; None for other targets."""
        try:
            target = urlsplit(headers[TARGET])
            prefix = HOSTS.get(target.netloc.lower())
        except ValueError:
            return None
        if prefix is None or target.scheme not in ("http", "https"):
            return None
        path = f"{root}{prefix}{target.path}"
        inner = {
            **scope,
            "path": unquote(path),
            "raw_path": path.encode("ascii", "ignore"),
            "query_string": target.query.encode("ascii", "ignore"),
            "headers": [pair for pair in scope["headers"] if pair[0] != TARGET.encode()],
        }
        if "authorization" not in headers and headers.get("origin") in self._origins:
            inner[OWNER_KEY] = WEB_PAGE
        return inner
