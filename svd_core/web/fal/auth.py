"""Authentication of API calls: keys, the middleware that checks them, and the proxy of web pages.

The caller is known before the request body is read. Keys are compared in constant time. `/proxy`
replaces the server proxy that fal's browser clients expect: they name one of fal's URLs in a
header, and the same route here responds.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers, QueryParams
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from svd_core.web.fal.responses import ApiError, request_error
from svd_core.web.fal.signed_tokens import SignedTokens
from svd_core.web.origins import is_loopback, origin_netloc

NO_KEYS = (
    "This server has no API keys, so its API is closed. Its operator can set SVD_API_KEYS to "
    "id:secret (several separated by commas) and restart it."
)
KEY_MISSING = "Authentication is required. Send the header 'Authorization: Key id:secret'."
KEY_MALFORMED = "The Authorization header is not of the form 'Key id:secret'."
KEY_UNKNOWN = "The key is unknown, or its secret is wrong."


class ApiKeys:
    """API keys, kept as digests that no method or `repr` shows.

    `keys`: id:secret, separated by commas. `open_here`: whether calls need no key if there are
    none, which is safe only if no other machine can reach the server.
    """

    def __init__(self, keys: str, *, open_here: bool) -> None:
        pairs = [pair.strip() for pair in keys.split(",") if pair.strip()]
        self._digests: Sequence[tuple[str, bytes]] = [
            (pair.partition(":")[0], digest) for pair in pairs for digest in _digests(pair)
        ]
        self.open = open_here and not pairs

    def owner(self, authorization: str | None) -> str:
        """The id of the caller's key; empty on a server without keys. Raises `ApiError`, 401."""
        if self.open:
            return ""
        if not self._digests:
            raise _refusal(NO_KEYS)
        if not authorization:
            raise _refusal(KEY_MISSING)
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() not in ("key", "bearer") or ":" not in key:
            raise _refusal(KEY_MALFORMED)
        owner = self._find(key.strip())
        if owner is None:
            raise _refusal(KEY_UNKNOWN)
        return owner

    def _find(self, key: str) -> str | None:
        """The id of `key`. Compares with every key, so the time reveals nothing."""
        try:
            digest = _digest(key.encode("latin-1"))  # the bytes that were sent
        except UnicodeEncodeError:
            return None
        owner = None
        for key_id, expected in self._digests:
            if hmac.compare_digest(digest, expected):
                owner = key_id
        return owner


def _digests(key: str) -> list[bytes]:
    """A digest for each encoding in which clients send letters beyond ASCII: UTF-8 and latin-1."""
    forms = {key.encode("utf-8", "surrogateescape")}
    with suppress(UnicodeEncodeError):
        forms.add(key.encode("latin-1"))
    return [_digest(form) for form in forms]


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _refusal(detail: str) -> ApiError:
    headers = {"WWW-Authenticate": 'Key realm="fal"'}
    return ApiError(request_error(401, detail, "unauthorized", headers))


PUBLIC_PATHS = re.compile(r"/(docs|openapi\.json|health|rest/\.well-known/jwks\.json)/?|/cdn/.*")
"""Paths without a key: they are public, or their routes check keys, tokens or signed URLs."""

STREAM_PATHS = re.compile(r"/(run/.+|queue/.+/status)/stream/?")
"""Paths that take a token in place of a key."""

OWNER_KEY = "svd.owner"
"""Key of the caller's id in an ASGI scope."""

PROXY_HEADERS = re.compile(
    r"forwarded|via|x-forwarded(-.*)?|x-(real|client|cluster-client)-ip|x-original-.*|true-client-ip"
    r"|(cf|fastly|fly|do|x-appengine-user)-.*ip|cf-ray|x-envoy-.*|x-amzn-trace-id|cdn-loop"
)
"""Headers that proxies add. Programs on this machine have no reason to send them."""

NOT_LOCAL_DETAIL = (
    "This server has no API keys, so only programs on its own machine can call it. Its operator "
    "can set SVD_API_KEYS to id:secret and restart it."
)


def owner_of(connection: HTTPConnection) -> str:
    """The id of the caller's key, as the middleware found it; empty without keys."""
    owner: str = connection.scope[OWNER_KEY]
    return owner


class AuthMiddleware:
    """ASGI middleware that puts the caller's id into the scope, under `OWNER_KEY`.

    A server without keys is open only to programs on this machine. It refuses web pages of other
    sites by their Origin and Host (DNS rebinding), and requests that a proxy here forwards.
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
        """Authenticate the caller. Raises `ApiError`."""
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
    """Refuse requests from elsewhere. Raises `ApiError`, 403.

    nginx forwards with HTTP/1.0, the only sign of a proxy that adds no header.
    """
    direct = scope.get("http_version") != "1.0" and not any(map(PROXY_HEADERS.fullmatch, headers))
    origin, hosts = headers.get("origin"), headers.getlist("host")
    if origin is not None:
        hosts.append(origin_netloc(origin) or "")
    if not direct or not all(map(is_loopback, hosts)):
        raise ApiError(request_error(403, NOT_LOCAL_DETAIL, "forbidden"))


TARGET_HEADER = "x-fal-target-url"

FAL_HOSTS: Mapping[str, str] = {
    "queue.fal.run": "/queue",
    "fal.run": "/run",
    "rest.fal.ai": "/rest",
    "rest.alpha.fal.ai": "/rest",
}

WEB_PAGE = "@proxy"
"""Owner of jobs from allowed web pages without a key. They share its limits."""

TARGET_MISSING = request_error(400, f"The header {TARGET_HEADER} is missing.", "bad_request")
TARGET_UNKNOWN = request_error(
    400, f"{TARGET_HEADER} must lead to one of {', '.join(FAL_HOSTS)}.", "bad_request"
)


class Proxy:
    """ASGI middleware around the API: forwards requests for `/proxy` to their target here.

    A request without a key is accepted only from web pages of `origins`. Browsers send the true
    Origin, but other programs can send any.
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
        elif TARGET_HEADER not in headers:
            await TARGET_MISSING.to_response()(scope, receive, send)
        elif (inner := self._route(scope, headers, root)) is None:
            await TARGET_UNKNOWN.to_response()(scope, receive, send)
        else:
            await self.app(inner, receive, send)

    def _route(self, scope: Scope, headers: Headers, root: str) -> Scope | None:
        """Rewrite `scope` for the target; None for a target that is not one of fal's hosts."""
        try:
            target = urlsplit(headers[TARGET_HEADER])
            prefix = FAL_HOSTS.get(target.netloc.lower())
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
            "headers": [pair for pair in scope["headers"] if pair[0] != TARGET_HEADER.encode()],
        }
        if "authorization" not in headers and headers.get("origin") in self._origins:
            inner[OWNER_KEY] = WEB_PAGE
        return inner
