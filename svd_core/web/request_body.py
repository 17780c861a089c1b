"""Request bodies: size limit, deadline, and one memory budget for all bodies that arrive at once.

A body that stalls, or arrives more slowly than its deadline allows, ends its request. If the bodies
under way exceed the budget, the one that has been silent longest is dropped, so that slow senders
cannot keep others out. Knows ASGI messages, but no routes.

`parse_json` reads strict JSON (RFC 8259) of limited size and depth.
"""

import json
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from anyio import CancelScope, fail_after, sleep
from starlette.types import Message, Receive

MAX_BUDGET = 256 * 2**20
"""Bytes of all bodies in memory at once: eight of the largest."""

MIN_RATE = 64 * 1024
"""Bytes a second. A body that arrives at this rate or faster never misses the deadline."""

SMALL = 16 * 1024
TINY = 2 * 1024
"""Bytes of a form that are parsed at once: `TINY` if they have more than `MANY` parts, each of
which makes a file."""

MANY = 8

TOO_LARGE = "The request is too large. A photo may have at most 20 MB."
TOO_SLOW = "The request did not arrive in time. Please send it again."
TOO_BUSY = "The server is receiving too much at once. Please try again in a minute."


class BodyError(Exception):
    """Ends a request. `status`: HTTP status of the response, whose text is the message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(eq=False)
class _PendingBody:
    """A body in memory. `received_at`: monotonic seconds of its newest piece."""

    received_at: float
    scope: CancelScope = field(default_factory=CancelScope)
    content: bytearray = field(default_factory=bytearray)
    arriving: bool = True


class BodyReader:
    """Reads request bodies within limits. All calls come from one event loop.

    `total_s`: seconds a body may take, and longer only at `MIN_RATE`. `stall_s`: seconds without a
    piece. `budget`: bytes of all bodies that `read` holds in memory.
    """

    def __init__(
        self, *, total_s: float = 300.0, stall_s: float = 20.0, budget: int = MAX_BUDGET
    ) -> None:
        self._total_s = total_s
        self._stall_s = stall_s
        self._budget = budget
        self._bodies: list[_PendingBody] = []

    @asynccontextmanager
    async def read(self, receive: Receive, limit: int) -> AsyncIterator[bytearray]:
        """Read the whole body, at most `limit` bytes. It counts in the budget until the block ends.

        Raises `BodyError`: 413, 408, 499 or 503.
        """
        body = _PendingBody(time.monotonic())
        self._bodies.append(body)
        try:
            with body.scope:
                await self._fill(body, receive, limit)
            body.arriving = False
            if body.scope.cancelled_caught:
                raise BodyError(503, TOO_BUSY)
            yield body.content
        finally:
            self._bodies.remove(body)

    async def _fill(self, body: _PendingBody, receive: Receive, limit: int) -> None:
        async with aclosing(self.pieces(receive)) as pieces:
            async for piece in pieces:
                body.content += piece
                body.received_at = time.monotonic()
                if len(body.content) > limit:
                    raise BodyError(413, TOO_LARGE)
                self._make_room()

    async def pieces(self, receive: Receive) -> AsyncGenerator[bytes]:
        """Read the body as it arrives. Raises `BodyError`: 408, or 499 if the client is gone."""
        deadline = time.monotonic() + self._total_s
        more = True
        while more:
            message = await self._next(receive, deadline)
            if message["type"] == "http.disconnect":
                raise BodyError(499, "The client has disconnected.")
            piece = message.get("body", b"")
            deadline += len(piece) / MIN_RATE
            more = message.get("more_body", False)
            yield piece

    def streamed(self, receive: Receive, limit: int) -> Receive:
        """Limit `receive` for an application that parses the body as it arrives.

        It gets small pieces, between which other requests have their turn, and a disconnect if the
        body is too large or too slow.
        """
        pieces = self._small(receive, limit)
        over = broken = False

        async def limited() -> Message:
            nonlocal over, broken
            if over:
                return await receive()
            try:
                piece = None if broken else await anext(pieces, None)
            except BodyError:
                broken = True
            if broken:
                return {"type": "http.disconnect"}
            over = piece is None
            return {"type": "http.request", "body": piece or b"", "more_body": not over}

        return limited

    async def _small(self, receive: Receive, limit: int) -> AsyncGenerator[bytes]:
        """Read the body in pieces that take milliseconds to parse. Raises `BodyError`."""
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
        total = sum(len(body.content) for body in self._bodies)
        arriving = [b for b in self._bodies if b.arriving and not b.scope.cancel_called]
        if total > self._budget and arriving:
            min(arriving, key=lambda body: body.received_at).scope.cancel()


MAX_DEPTH = 64
MAX_TOKENS = 50_000
"""Brackets, braces and commas, also within text. An upload of 10,000 parts has 40,000."""

MAX_ESCAPES = 1_000_000
"""Backslashes. A photo of 20 MB has 420,000 if its base64 is written with \\/ for each slash."""

MAX_DIGITS = 400
"""Characters of a number. A double without exponent has up to 309 digits before its point."""

INTEGERS = range(-(2**63), 2**64)


class InvalidJson(ValueError):
    """JSON beyond the limits. The text is a clause without full stop."""


def parse_json(data: bytes | bytearray | str) -> Any:
    """Parse strict JSON. Raises `ValueError`: `json.JSONDecodeError` or `InvalidJson`.

    Python's parser also accepts NaN, 1e999 and integers of thousands of digits, which no JSON
    response and no database column can hold. It holds the interpreter's lock until it is done, even
    in a thread, so the costly parts are counted first.
    """
    if _count(data, "[", "{", ",") > MAX_TOKENS or _count(data, "\\") > MAX_ESCAPES:
        raise InvalidJson("it has too many parts")
    try:
        value = json.loads(
            data, parse_float=_float, parse_int=_integer, parse_constant=_reject_constant
        )
    except RecursionError:
        raise InvalidJson("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise InvalidJson("it is not UTF-8") from None  # that error holds the whole body
    if _depth_exceeds(value, MAX_DEPTH):
        raise InvalidJson("it is nested too deeply")
    return value


def _count(data: bytes | bytearray | str, *marks: str) -> int:
    if isinstance(data, str):
        return sum(data.count(mark) for mark in marks)
    return sum(data.count(mark.encode()) for mark in marks)


def _float(text: str) -> float:
    if len(text) > MAX_DIGITS or not math.isfinite(float(text)):
        raise _too_large(text)
    return float(text)


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS or int(text) not in INTEGERS:
        raise _too_large(text)
    return int(text)


def _reject_constant(text: str) -> float:
    raise InvalidJson(f"{text} is not JSON")


def _too_large(text: str) -> InvalidJson:
    return InvalidJson(f"the number {text if len(text) <= 20 else text[:17] + '...'} is too large")


def _depth_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True
