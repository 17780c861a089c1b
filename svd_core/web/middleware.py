"""ASGI middleware in front of page and API: a guard, and delivery of responses through proxies.

It is outside Gradio's middleware, which therefore adds no headers to responses of the API.
"""

import re
from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import Any

from anyio import CapacityLimiter, move_on_after, to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from svd_core.web.origins import OriginPolicy
from svd_core.web.public_address import route_path
from svd_core.web.rate_limits import LoginThrottle, client_address
from svd_core.web.request_body import TOO_LARGE, BodyError, BodyReader, parse_json
from svd_core.web.snippets import MOUNT

MAX_BODY = 32 * 2**20
"""Bytes of a body that may hold a photo: 20 MB, a third longer as base64, and the rest."""

MAX_OTHER_BODY = 2**20
MAX_LOGIN_BODY = 64 * 1024
"""Bytes of a login, and of any body that comes without a login if one is needed."""

MAX_HEADERS = 200
MAX_HEADER_BYTES = 64 * 1024
MAX_PATH = 8192

MAX_INLINE_PARSE = 64 * 1024
"""Bytes of a body that is parsed in the event loop; larger ones are parsed in a thread."""

URL_FETCH = re.compile(r"/file[=/]\s*https?:", re.IGNORECASE)
UPLOAD = re.compile(r"(/gradio_api)?/upload/?")
WITH_PHOTO = re.compile(r"/gradio_api/(queue/join|run|api|call|mcp)(/.*)?")
LOGIN = re.compile(r"/login/?")
UNUSED = re.compile(r"(/gradio_api)?/custom_component/.*", re.DOTALL)
"""A route of Gradio for components of other packages, which prints the requested path."""

LINE_BREAKS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
LENGTH = re.compile(rb"\d{1,15}")

CREDENTIALS = b"access-control-allow-credentials"

# Gradio copies the headers of a Range request into its response; these are legitimate.
RANGE_REQUEST = frozenset({
    b"host", b"range", b"if-range", b"cookie", b"accept", b"accept-encoding", b"accept-language",
    b"user-agent", b"referer", b"origin", b"x-forwarded-host", b"x-forwarded-proto",
})  # fmt: skip
RANGE_RESPONSE = frozenset({
    b"content-type", b"content-length", b"content-range", b"content-encoding",
    b"content-disposition", b"content-security-policy", b"x-content-type-options",
    b"accept-ranges", b"etag", b"last-modified", b"cache-control", b"vary",
    b"access-control-allow-origin", CREDENTIALS,
})  # fmt: skip

TOO_MANY_LOGINS = "Too many wrong passwords. Please wait a minute and try again."

CLOSE = {"Connection": "close"}

STREAM_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
"""The second one is nginx's, and other proxies know it too."""

LINGER_S = 30.0
"""Seconds for which a client may go on sending after its refusal. Closing a connection while data
arrives resets it, and the client may lose the response."""

STALL_S = 2.0
"""Seconds without data after which a refused client gets its response: it may be waiting."""


class GuardMiddleware:
    """Refuses requests before Gradio or a route sees them.

    Requests for the API go there directly: it has its own limits, and most requests are polls. For
    the page the guard checks Host and Origin, limits and parses bodies, throttles logins, and
    closes routes of Gradio that the page does not need.

    `app`: the page. `api`: the API, or None. `bodies`: for the page.
    """

    def __init__(
        self, app: ASGIApp, api: ASGIApp | None, origins: OriginPolicy, bodies: BodyReader
    ) -> None:
        self._app = app
        self._api = None if api is None else Mount(MOUNT, app=api)
        self._origins = origins
        self._bodies = bodies
        self._throttle = LoginThrottle()
        self._parsing = CapacityLimiter(2)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":  # neither page nor API has any
            await send({"type": "websocket.close", "code": 1008})
            return
        client_address.set((scope.get("client") or ("",))[0])
        error = _oversized(scope)
        if self._api is not None:
            match, inner = self._api.matches(scope)
            if match is not Match.NONE:
                api = self._api.app if error is None else _in_json(error)
                await api({**scope, **inner}, receive, send)
                return
        headers = Headers(scope=scope)
        if "origin" in headers and not self._origins.is_own(headers):
            send = _filter_headers(send, lambda name: name != CREDENTIALS)
        error = error or self._refusal(scope, headers)
        if error is not None:
            await error(scope, receive, send)
        elif LOGIN.fullmatch(route_path(scope)) and scope["method"] == "POST":
            await self._login(scope, receive, send)
        else:
            await self._page(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        path = route_path(scope)
        if (message := self._origins.refusal(headers)) is not None:
            return PlainTextResponse(message, 403)
        if URL_FETCH.search(path):
            return PlainTextResponse("This server does not fetch other addresses.", 403)
        if UNUSED.fullmatch(path) or LINE_BREAKS.search(path):
            return PlainTextResponse("There is nothing at this address.", 404)
        return None

    async def _login(self, scope: Scope, receive: Receive, send: Send) -> None:
        address = client_address.get()
        if not self._throttle.admit(address):
            refusal = PlainTextResponse(TOO_MANY_LOGINS, 429, {"Retry-After": "60"})
            await refusal(scope, receive, send)
            return

        async def refund_on_success(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] != 400:
                self._throttle.refund(address)
            await send(message)

        await self._page(scope, receive, refund_on_success)

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            if any(name == b"range" for name, _ in scope["headers"]):
                scope, send = _without_echo(scope, send)
            await self._app(scope, receive, send)
            return
        path = route_path(scope)
        limit = _limit(path)
        if self._origins.login and not _logged_in(scope):
            limit = min(limit, MAX_LOGIN_BODY)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not LENGTH.fullmatch(length) or int(length) > limit:
            await PlainTextResponse(TOO_LARGE, 413, CLOSE)(scope, receive, send)
        elif UPLOAD.fullmatch(path):
            await self._app(scope, self._bodies.streamed(receive, limit), send)
        else:
            await self._with_body(scope, receive, send, limit)

    async def _with_body(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        try:
            async with self._bodies.read(receive, limit) as content:
                problem = await self._json_problem(scope, content)
                body = bytes(content)
        except BodyError as error:
            await PlainTextResponse(error.message, error.status, CLOSE)(scope, receive, send)
            return
        if problem is not None:
            message = f"This server cannot read the JSON of the request: {problem}."
            await PlainTextResponse(message, 422)(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    async def _json_problem(self, scope: Scope, body: bytearray) -> str | None:
        """What is wrong with a body that must be JSON; None for any other body."""
        content_type = Headers(scope=scope).get("content-type", "")
        if not body or not route_path(scope).startswith("/gradio_api/") or "form" in content_type:
            return None
        try:
            if len(body) <= MAX_INLINE_PARSE:
                parse_json(body)
            else:
                await to_thread.run_sync(parse_json, body, limiter=self._parsing)
        except ValueError as error:
            return getattr(error, "msg", str(error))  # without the place in the body
        return None


def _oversized(scope: Scope) -> Response | None:
    headers = scope["headers"]
    size = sum(len(name) + len(value) for name, value in headers)
    if len(headers) > MAX_HEADERS or size > MAX_HEADER_BYTES:
        return PlainTextResponse("The request has too many headers.", 431, CLOSE)
    if len(scope["path"]) > MAX_PATH:
        return PlainTextResponse("The address is too long.", 414, CLOSE)
    return None


def _in_json(error: Response) -> Response:
    body = {"detail": bytes(error.body).decode()}
    return JSONResponse(body, error.status_code, CLOSE)


def _limit(path: str) -> int:
    if UPLOAD.fullmatch(path) or WITH_PHOTO.fullmatch(path):
        return MAX_BODY
    return MAX_LOGIN_BODY if LOGIN.fullmatch(path) else MAX_OTHER_BODY


def _logged_in(scope: Scope) -> bool:
    """Whether a request has the cookie that Gradio sets at a login."""
    app: Any = scope.get("app")
    cookies = Request(scope).cookies
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return any(cookies.get(name) in app.tokens for name in names)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Make a `receive` that returns the body, which has been read, and then new messages."""
    replayed = False

    async def again() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _without_echo(scope: Scope, send: Send) -> tuple[Scope, Send]:
    headers = [pair for pair in scope["headers"] if pair[0] in RANGE_REQUEST]
    send = _filter_headers(send, lambda name: name in RANGE_RESPONSE)
    return {**scope, "headers": headers}, send


def _filter_headers(send: Send, keep: Callable[[bytes], bool]) -> Send:
    """Make a `send` that passes on only those response headers whose names `keep` accepts."""

    async def filtered(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [pair for pair in message["headers"] if keep(pair[0].lower())]
            message = {**message, "headers": headers}
        await send(message)

    return filtered


class ResponseDelivery:
    """Delivers responses through proxies: event streams at once, refusals after the request.

    A proxy buffers the small events of a stream unless a header forbids it. If a response is sent
    before the whole request has arrived, and the connection is then closed, the proxy answers 502.
    So the rest of the request is received and dropped first.

    `limit`: bytes of one request that are dropped before a response. `total_s`: seconds that this
    may take.
    """

    def __init__(
        self, app: ASGIApp, limit: int, *, total_s: float = 300.0, stall_s: float = STALL_S
    ) -> None:
        self._app = app
        self._limit = limit
        self._bodies = BodyReader(total_s=total_s, stall_s=stall_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Headers(scope=scope)
        pending = "transfer-encoding" in request or request.get("content-length", "0") != "0"
        waiting = pending and request.get("expect", "").lower() == "100-continue"
        sends_on = False

        async def noting() -> Message:
            nonlocal pending, waiting
            waiting = False
            message = await receive()
            pending = message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def deliver(message: Message) -> None:
            nonlocal sends_on
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=list(message["headers"]))
                if headers.get("content-type", "").startswith("text/event-stream"):
                    headers.update(STREAM_HEADERS)
                if pending and not waiting:
                    sends_on = not await self._drain(noting)
                if pending:  # the connection cannot carry another request
                    headers["connection"] = "close"
                message = {**message, "headers": headers.raw}
            is_last = sends_on and not message.get("more_body", False)
            if message["type"] == "http.response.body" and is_last:
                await send({**message, "more_body": True})
                with move_on_after(LINGER_S):
                    await self._drain(noting, endless=True)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        await self._app(scope, noting if pending else receive, deliver)

    async def _drain(self, receive: Receive, *, endless: bool = False) -> bool:
        """Receive and drop the rest of the request. Returns False at the limit, if there is one.

        Also returns if no data arrives for a while, or if the client is gone.
        """
        left = self._limit
        with suppress(BodyError):
            async with aclosing(self._bodies.pieces(receive)) as pieces:
                async for piece in pieces:
                    left -= len(piece)
                    if left < 0 and not endless:
                        return False
        return True
