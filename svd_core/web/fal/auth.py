"""Authentication middleware: decides before any of a request body is read."""

import re

from starlette.datastructures import Headers, QueryParams
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from svd_core.web.fal.api_keys import ApiKeys
from svd_core.web.fal.responses import ApiError, request_error
from svd_core.web.fal.signed_tokens import SignedTokens
from svd_core.web.origins import is_loopback, origin_netloc

PUBLIC_PATHS = re.compile(r"/(docs|openapi\.json|health|rest/\.well-known/jwks\.json)/?|/cdn/.*")
"""What needs no key here: it tells nothing, or looks at keys, tokens and addresses by itself."""

STREAM_PATHS = re.compile(r"/(run/.+|queue/.+/status)/stream/?")
"""Where a token goes in place of a key."""

OWNER_KEY = "svd.owner"
"""Key of the caller's id in a scope."""

PROXY_HEADERS = re.compile(
    r"forwarded|via|x-forwarded(-.*)?|x-(real|client|cluster-client)-ip|x-original-.*|true-client-ip"
    r"|(cf|fastly|fly|do|x-appengine-user)-.*ip|cf-ray|x-envoy-.*|x-amzn-trace-id|cdn-loop"
)
"""Headers that proxies add. Programs on this machine have no reason to send them."""

NOT_LOCAL_DETAIL = (
    "This server has no API keys and is open to its own machine only, which this call does not "
    "come from; whoever runs it sets SVD_API_KEYS to id:secret and starts it again."
)


def owner_of(connection: HTTPConnection) -> str:
    owner: str = connection.scope[OWNER_KEY]
    return owner


class AuthMiddleware:
    """ASGI middleware. `app` finds the caller's id in the scope, under `OWNER_KEY`.

    A server without keys is open to this machine; so a browser on it that shows somebody else's
    page must not get through, neither as a foreign origin nor by a name that leads here, and
    neither must what a relay on this machine takes in from outside.
    """

    def __init__(self, app: ASGIApp, keys: ApiKeys, tokens: SignedTokens) -> None:
        self.app = app
        self._keys = keys
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] != "OPTIONS":
            try:
                self._admit(scope)
            except ApiError as error:
                await error.response.to_response()(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        """Raises `ApiError`."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        headers = Headers(scope=scope)
        if self._keys.open:
            _check_local(scope, headers)
        if OWNER_KEY in scope or PUBLIC_PATHS.fullmatch(path):
            scope.setdefault(OWNER_KEY, "")
            return
        if STREAM_PATHS.fullmatch(path):
            token = QueryParams(scope["query_string"]).get("fal_jwt_token")
            claims = self._tokens.read("stream", token) if token else None
            if claims is not None:
                scope[OWNER_KEY] = claims["owner"]
                return
        scope[OWNER_KEY] = self._keys.owner(headers.get("authorization"))


def _check_local(scope: Scope, headers: Headers) -> None:
    """Raises `ApiError` for what shows that it comes from elsewhere.

    HTTP/1.0 is what nginx speaks to what is behind it; a proxy that adds nothing at all is told by
    nothing else.
    """
    near = scope.get("http_version") != "1.0" and not any(map(PROXY_HEADERS.fullmatch, headers))
    origin, hosts = headers.get("origin"), headers.getlist("host")
    if origin is not None:
        hosts.append(origin_netloc(origin) or "")
    if not near or not all(map(is_loopback, hosts)):
        raise ApiError(request_error(403, NOT_LOCAL_DETAIL, "forbidden"))
