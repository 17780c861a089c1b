"""ASGI middleware in front of page and API: refuses requests before Gradio or a route sees them.

Outermost of all, so that Gradio's own middleware adds no header to the API's answers. Requests for
the API go to it directly: it has limits of its own, and most requests are polls. For the page it
checks Host and Origin, limits and parses bodies, slows login attempts, and closes routes of Gradio
that the page does not need.
"""

import re
from collections.abc import Callable
from json import JSONDecodeError
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from svd_core.web.origins import OriginPolicy
from svd_core.web.rate_limits import LoginThrottle, client_address
from svd_core.web.request_body import TOO_LARGE, BodyError, BodyReader, Disconnected, parse_json
from svd_core.web.snippets import MOUNT

MAX_BODY = 32 * 2**20
"""Bytes where a photo may be in it: 20 MB, a third longer as base64, and what is around it."""

MAX_OTHER_BODY = 2**20
MAX_LOGIN_BODY = 64 * 1024
"""Bytes of a login, and of everything that comes without one where one is needed."""

MAX_HEADERS = 200
MAX_HEADER_BYTES = 64 * 1024
MAX_PATH = 8192

SOON = 64 * 1024
"""Bytes of a body that is parsed at once; for more, other requests go first."""

FETCHES = re.compile(r"/file[=/]\s*https?:", re.IGNORECASE)
UPLOAD = re.compile(r"(/gradio_api)?/upload/?")
WITH_PHOTO = re.compile(r"/gradio_api/(queue/join|run|api|call|mcp)(/.*)?")
LOGIN = re.compile(r"/login/?")
UNUSED = re.compile(r"(/gradio_api)?/custom_component/.*", re.DOTALL)
"""A route of Gradio for components from other packages, which prints what it is asked for."""

LINE_BREAKS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
LENGTH = re.compile(rb"\d{1,15}")

CREDENTIALS = b"access-control-allow-credentials"

# Gradio copies the headers of a request with Range into its answer; these are its own.
RANGE_REQUEST = frozenset({
    b"host", b"range", b"if-range", b"cookie", b"accept", b"accept-encoding", b"accept-language",
    b"user-agent", b"referer", b"origin", b"x-forwarded-host", b"x-forwarded-proto",
})  # fmt: skip
RANGE_ANSWER = frozenset({
    b"content-type", b"content-length", b"content-range", b"content-encoding",
    b"content-disposition", b"content-security-policy", b"x-content-type-options",
    b"accept-ranges", b"etag", b"last-modified", b"cache-control", b"vary",
    b"access-control-allow-origin", CREDENTIALS,
})  # fmt: skip

TOO_MANY_LOGINS = "Too many wrong passwords; please wait a minute and try again."

CLOSE = {"Connection": "close"}


class GuardMiddleware:
    """`app`: the page. `api`: the API, or None. `bodies` reads what is sent to the page."""

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
            send = _without(send, lambda name: name == CREDENTIALS)
        error = error or self._refusal(scope, headers)
        if error is not None:
            await error(scope, receive, send)
        elif LOGIN.fullmatch(scope["path"]) and scope["method"] == "POST":
            await self._login(scope, receive, send)
        else:
            await self._page(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        path = scope["path"]
        if (sentence := self._origins.refusal(headers)) is not None:
            return PlainTextResponse(sentence, 403)
        if FETCHES.search(path):
            return PlainTextResponse("This server does not fetch other addresses for you.", 403)
        if UNUSED.fullmatch(path) or LINE_BREAKS.search(path):
            return PlainTextResponse("There is nothing at this address.", 404)
        return None

    async def _login(self, scope: Scope, receive: Receive, send: Send) -> None:
        address = client_address.get()
        if not self._throttle.admit(address):
            refusal = PlainTextResponse(TOO_MANY_LOGINS, 429, {"Retry-After": "60"})
            await refusal(scope, receive, send)
            return

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] != 400:
                self._throttle.refund(address)
            await send(message)

        await self._page(scope, receive, watched)

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            if any(name == b"range" for name, _ in scope["headers"]):
                scope, send = _without_echo(scope, send)
            await self._app(scope, receive, send)
            return
        limit = _limit(scope["path"])
        if self._origins.login and not _logged_in(scope):
            limit = min(limit, MAX_LOGIN_BODY)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not LENGTH.fullmatch(length) or int(length) > limit:
            await PlainTextResponse(TOO_LARGE, 413, CLOSE)(scope, receive, send)
        elif UPLOAD.fullmatch(scope["path"]):
            await self._app(scope, self._bodies.streamed(receive, limit), send)
        else:
            await self._with_body(scope, receive, send, limit)

    async def _with_body(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        try:
            async with self._bodies.read(receive, limit) as read:
                why = await self._malformed(scope, read)
                body = bytes(read)
        except Disconnected:
            return
        except BodyError as error:
            await PlainTextResponse(error.message, error.status, CLOSE)(scope, receive, send)
            return
        if why is not None:
            message = f"The request is no JSON that this server reads: {why}."
            await PlainTextResponse(message, 422)(scope, receive, send)
            return
        await self._app(scope, _replayed(body, receive), send)

    async def _malformed(self, scope: Scope, body: bytearray) -> str | None:
        """What is wrong with a body that has to be JSON; None for every other body."""
        kind = Headers(scope=scope).get("content-type", "")
        if not body or not scope["path"].startswith("/gradio_api/") or "form" in kind:
            return None
        try:
            if len(body) <= SOON:
                parse_json(body)
            else:
                await to_thread.run_sync(parse_json, body, limiter=self._parsing)
        except JSONDecodeError as error:
            return error.msg
        except ValueError as error:
            return str(error)
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
    """Whether a request carries the cookie that Gradio gives to those who log in."""
    app: Any = scope.get("app")
    cookies = Request(scope).cookies
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return any(cookies.get(name) in app.tokens for name in names)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` after the body has been read: gives it once more, and then what comes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _without_echo(scope: Scope, send: Send) -> tuple[Scope, Send]:
    headers = [pair for pair in scope["headers"] if pair[0] in RANGE_REQUEST]
    return {**scope, "headers": headers}, _without(send, lambda name: name not in RANGE_ANSWER)


def _without(send: Send, unwanted: Callable[[bytes], bool]) -> Send:
    """`send` less the headers of the answer whose names are `unwanted`."""

    async def filtered(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = [pair for pair in message["headers"] if not unwanted(pair[0].lower())]
            message = {**message, "headers": own}
        await send(message)

    return filtered
