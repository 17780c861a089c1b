"""Request bodies: size limit, deadline, and one memory budget for all bodies that arrive at once.

A body that stalls, or arrives more slowly than its deadline allows, ends its request. Where bodies
under way hold more than the budget, the one that has been silent for the longest is dropped, so
that slow senders cannot keep others out. Knows ASGI messages and nothing of routes.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from anyio import CancelScope, fail_after, sleep
from starlette.types import Message, Receive

MAX_BUDGET = 256 * 2**20
"""Bytes of all bodies that are held in memory at once: eight of the largest."""

MIN_RATE = 64 * 1024
"""Bytes a second. What arrives at this rate or faster never runs into the deadline."""

SMALL = 16 * 1024
TINY = 2 * 1024
"""Bytes of a form that are parsed at once; the latter where it has many parts, each a file to be
made."""

MANY = 8

TOO_LARGE = "The request is too large; a photo may have at most 20 MB."
TOO_SLOW = "The request did not arrive in full in time; please send it again."
TOO_BUSY = "The server is receiving too much at once; please try again in a minute."


class BodyError(Exception):
    """Ends a request. `status`: HTTP status of the answer, whose text is the error's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Disconnected(BodyError):
    """The client is gone, so that nobody reads an answer."""

    def __init__(self) -> None:
        super().__init__(499, "The client went away.")


@dataclass(eq=False)
class _Held:
    """A body in memory. `heard`: monotonic seconds of its newest piece."""

    heard: float
    scope: CancelScope = field(default_factory=CancelScope)
    content: bytearray = field(default_factory=bytearray)
    arriving: bool = True


class BodyReader:
    """Reads bodies within limits; all calls from one event loop.

    `total_s`: seconds a body may take, and longer only at `MIN_RATE`. `stall_s`: seconds without a
    piece. `budget`: bytes of all bodies that `read` holds.
    """

    def __init__(
        self, *, total_s: float = 300.0, stall_s: float = 20.0, budget: int = MAX_BUDGET
    ) -> None:
        self._total_s = total_s
        self._stall_s = stall_s
        self._budget = budget
        self._held: list[_Held] = []

    @asynccontextmanager
    async def read(self, receive: Receive, limit: int) -> AsyncIterator[bytearray]:
        """The whole body, at most `limit` bytes; it counts in the budget until the block ends.

        Raises `BodyError`: 413, 408 or 503.
        """
        held = _Held(time.monotonic())
        self._held.append(held)
        try:
            with held.scope:
                await self._fill(held, receive, limit)
            held.arriving = False
            if held.scope.cancelled_caught:
                raise BodyError(503, TOO_BUSY)
            yield held.content
        finally:
            self._held.remove(held)

    async def _fill(self, held: _Held, receive: Receive, limit: int) -> None:
        async with aclosing(self.pieces(receive)) as pieces:
            async for piece in pieces:
                held.content += piece
                held.heard = time.monotonic()
                if len(held.content) > limit:
                    raise BodyError(413, TOO_LARGE)
                self._make_room()

    async def pieces(self, receive: Receive) -> AsyncGenerator[bytes]:
        """The body as it arrives. Raises `BodyError`: 408, or `Disconnected`."""
        deadline = time.monotonic() + self._total_s
        more = True
        while more:
            message = await self._next(receive, deadline)
            if message["type"] == "http.disconnect":
                raise Disconnected
            piece = message.get("body", b"")
            deadline += len(piece) / MIN_RATE
            more = message.get("more_body", False)
            yield piece

    def streamed(self, receive: Receive, limit: int) -> Receive:
        """`receive` for an application that parses the body as it arrives: in small pieces, between
        which others have their turn. It sees a disconnect instead of what is too large or too slow.
        """
        pieces = self._small(receive, limit)
        over = broken = False

        async def limited() -> Message:
            nonlocal over, broken
            if over:
                return await receive()
            piece = None
            try:
                if not broken:
                    piece = await anext(pieces, None)
                    over = piece is None
            except BodyError:
                broken = True
            if broken:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": piece or b"", "more_body": not over}

        return limited

    async def _small(self, receive: Receive, limit: int) -> AsyncGenerator[bytes]:
        """The body in pieces that take a parser some milliseconds. Raises `BodyError`."""
        left = limit
        async for piece in self.pieces(receive):
            left -= len(piece)
            if left < 0:
                raise BodyError(413, TOO_LARGE)
            size = TINY if piece.lower().count(b"content-disposition") > MANY else SMALL
            for at in range(0, len(piece), size):
                yield piece[at : at + size]
                await sleep(0)

    async def _next(self, receive: Receive, deadline: float) -> Message:
        try:
            with fail_after(max(min(self._stall_s, deadline - time.monotonic()), 0.0)):
                return await receive()
        except TimeoutError:
            raise BodyError(408, TOO_SLOW) from None

    def _make_room(self) -> None:
        total = sum(len(held.content) for held in self._held)
        arriving = [h for h in self._held if h.arriving and not h.scope.cancel_called]
        if total > self._budget and arriving:
            min(arriving, key=lambda held: held.heard).scope.cancel()
