"""Response delivery through proxies: event streams arrive as they are sent, refusals are read.

A proxy gathers the small events of a stream unless a header forbids it. A response that is sent
before the request has arrived in full, and then closes the connection, becomes a 502 of the proxy.
So the rest of the request is received and dropped first.
"""

from collections.abc import MutableSequence
from contextlib import aclosing, suppress

from anyio import move_on_after
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from svd_core.web.request_body import BodyError, BodyReader

EVENT_STREAM = b"text/event-stream"
STREAM_HEADERS = ((b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))
"""The second one is nginx's, and other proxies know it too."""

LINGER_S = 30.0
"""Seconds in which a client may send on after its refusal. Closing a connection while data arrives
resets it, and the client may lose the response."""

STALL_S = 2.0
"""Seconds without a piece after which a refused client gets its response: it may be waiting."""


class ResponseDelivery:
    """ASGI middleware in front of all routes.

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
        pending, waiting = _body_announced(scope)
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
                headers = list(message["headers"])
                _forbid_buffering(headers)
                if pending and not waiting:
                    sends_on = not await self._drain(noting)
                if pending:  # the connection cannot carry another request
                    _set(headers, b"connection", b"close")
                message = {**message, "headers": headers}
            is_last = sends_on and not message.get("more_body", False)
            if message["type"] == "http.response.body" and is_last:
                await send({**message, "more_body": True})
                with move_on_after(LINGER_S):
                    await self._drain(noting, endless=True)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        await self._app(scope, noting if pending else receive, deliver)

    async def _drain(self, receive: Receive, *, endless: bool = False) -> bool:
        """Receive and drop what is left of the request. Returns False at the limit, if it has one.

        Also returns if nothing comes for a while, or if the client is gone.
        """
        left = self._limit
        with suppress(BodyError):
            async with aclosing(self._bodies.pieces(receive)) as pieces:
                async for piece in pieces:
                    left -= len(piece)
                    if left < 0 and not endless:
                        return False
        return True


def _body_announced(scope: Scope) -> tuple[bool, bool]:
    """Whether the request has a body, and whether the client waits for leave to send it."""
    has_body = waits = False
    for name, value in scope["headers"]:
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            has_body = True
        elif name == b"expect":
            waits = value.lower() == b"100-continue"
    return has_body, has_body and waits


def _forbid_buffering(headers: MutableSequence[tuple[bytes, bytes]]) -> None:
    kinds = [value for name, value in headers if name.lower() == b"content-type"]
    if kinds and kinds[0].startswith(EVENT_STREAM):
        for name, value in STREAM_HEADERS:
            _set(headers, name, value)


def _set(headers: MutableSequence[tuple[bytes, bytes]], name: bytes, value: bytes) -> None:
    headers[:] = [pair for pair in headers if pair[0].lower() != name] + [(name, value)]
