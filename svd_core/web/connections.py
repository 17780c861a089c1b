"""Connection limits: timeouts for idle and slow clients, and a limit of open connections.

A connection ends if no request arrives within `header_s`, or if its client reads nothing of the
response for `unread_s`. At the limit, the connection that has been idle longest is closed. If all
are busy, it is one of the address with the most connections. So a client with thousands of
connections locks no one else out, and the process keeps file descriptors for its own use. Wraps
uvicorn's protocol.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from svd_core.web.rate_limits import network_of

HEADER_TIMEOUT_S = 20.0
WRITE_TIMEOUT_S = 60.0

MAX_HEAD = 256 * 1024
"""Bytes of request headers at which the connection is closed; `GuardMiddleware` refuses fewer."""

MAX_DESCRIPTORS = 65_536
RESERVED_DESCRIPTORS = 256
"""For files, the job table, the model and outgoing requests."""

BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Retry-After: 10\r\nContent-Length: 47\r\n\r\n"
    b"The server is busy; please try again in 10 s.\r\n"
)


def raise_descriptor_limit() -> int:
    """Raise the soft limit of file descriptors to the hard one. Returns the new limit.

    On Windows, which has no such limit, 512 is assumed.
    """
    try:
        import resource
    except ImportError:
        return 512
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < limit:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            return limit
    return min(soft, MAX_DESCRIPTORS) if soft > 0 else MAX_DESCRIPTORS


def connection_limit(maximum: int, descriptors: int) -> int:
    """Limit of connections: at most `maximum`, with `RESERVED_DESCRIPTORS` left if possible."""
    return max(min(maximum, max(descriptors - RESERVED_DESCRIPTORS, descriptors // 2)), 1)


def limit_connections(config: Any, limit: int) -> None:
    """Limit the connections of the server of a uvicorn `config`.

    It may run already: it reads the config for each new connection.
    """
    connections = Connections(config.http_protocol_class, limit)
    config.http_protocol_class = connections.new_protocol


class Connections:
    """The open connections of one server, used from its event loop.

    `inner`: makes uvicorn's protocol for one connection.
    """

    def __init__(
        self,
        inner: Callable[..., Any],
        limit: int,
        *,
        header_s: float = HEADER_TIMEOUT_S,
        unread_s: float = WRITE_TIMEOUT_S,
    ) -> None:
        self.header_s = header_s
        self.unread_s = unread_s
        self._inner = inner
        self._limit = limit
        self._open: OrderedDict[_Connection, None] = OrderedDict()  # least recently active first
        self._by_network: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def new_protocol(self, **options: Any) -> asyncio.Protocol:
        return _Connection(self._inner(**options), self)

    def admit(self, connection: "_Connection") -> bool:
        """Register a new connection, at the limit in place of another. False if it is refused."""
        if len(self._open) >= self._limit:
            victim = self._evictable(connection)
            if victim is None:
                return False
            victim.end()
            self.leave(victim)
        self._open[connection] = None
        self._by_network[connection.network] += 1
        return True

    def leave(self, connection: "_Connection") -> None:
        if connection in self._open:
            del self._open[connection]
            self._by_network[connection.network] -= 1
            if not self._by_network[connection.network]:
                del self._by_network[connection.network]

    def touch(self, connection: "_Connection") -> None:
        if connection in self._open:
            self._open.move_to_end(connection)

    def _evictable(self, new: "_Connection") -> "_Connection | None":
        idle = next((other for other in self._open if not other.busy), None)
        if idle is not None:
            return idle
        network, count = self._by_network.most_common(1)[0]
        if network == new.network or count <= self._limit // 2:
            return None
        return next(other for other in self._open if other.network == network)


class _Connection(asyncio.Protocol):
    """One connection: passes everything to uvicorn's protocol and enforces the timeouts."""

    def __init__(self, inner: Any, connections: Connections) -> None:
        self.network = ""
        self._inner = inner
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._head = 0

    @property
    def busy(self) -> bool:
        """Whether a request has arrived whose response is not complete."""
        cycle: Any = self._inner.cycle
        return cycle is not None and not bool(cycle.response_complete)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = made = cast(asyncio.Transport, transport)
        peer = made.get_extra_info("peername")
        self.network = network_of(peer[0]) if isinstance(peer, tuple) else ""
        self._inner.connection_made(made)
        if self._connections.admit(self):
            self._start("header", self._connections.header_s)
        else:
            made.write(BUSY)
            made.close()

    def connection_lost(self, exc: Exception | None) -> None:
        for name in list(self._timers):
            self._stop(name)
        self._connections.leave(self)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._inner.data_received(data)
        self._connections.touch(self)
        if self.busy:
            self._head = 0
            self._stop("header")
            return
        self._head += len(data)
        if self._head > MAX_HEAD:
            self.end()
        elif "header" not in self._timers:
            self._start("header", self._connections.header_s)

    def eof_received(self) -> bool | None:
        return cast(bool | None, self._inner.eof_received())

    def pause_writing(self) -> None:
        self._inner.pause_writing()
        self._start("unread", self._connections.unread_s)

    def resume_writing(self) -> None:
        self._inner.resume_writing()
        self._stop("unread")

    def end(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _start(self, name: str, seconds: float) -> None:
        self._stop(name)
        self._timers[name] = asyncio.get_running_loop().call_later(seconds, self._expired, name)

    def _stop(self, name: str) -> None:
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()

    def _expired(self, name: str) -> None:
        self._stop(name)
        if name == "unread" or not self.busy:
            self.end()
