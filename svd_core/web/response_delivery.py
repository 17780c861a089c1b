"""Response delivery through proxies: event streams arrive as they are sent, refusals are read.

A proxy buffers the small events of a stream unless a header forbids it. If a response is sent
before the whole request has arrived, and the connection is then closed, the proxy answers 502. So
the rest of the request is received and dropped first.
"""

from contextlib import aclosing, suppress

from anyio import move_on_after
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from svd_core.web.request_body import BodyError, BodyReader

STREAM_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
"""The second one is nginx's, and other proxies know it too."""

LINGER_S = 30.0
"""Seconds for which a client may go on sending after its refusal. Closing a connection while data
arrives resets it, and the client may lose the response."""

STALL_S = 2.0
"""Seconds without data after which a refused client gets its response: it may be waiting."""


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
