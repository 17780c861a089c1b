"""Listening sockets: the configured address and port, or one sentence that says why not.

The variables are Gradio's. The module does not know what is served.
"""

import errno
import ipaddress
import os
import re
import socket
from collections.abc import Mapping, MutableMapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from svd_core.errors import InvalidSettings
from svd_core.web.proxy_headers import plain_address

NAME, PORT, TRIES = "GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "GRADIO_NUM_PORTS"

DEFAULT_PORT = 7860
DEFAULT_TRIES = 100
"""Ports that are tried, one after the other, if none is configured."""

FIRST_FREE_PORT = 1024
"""First port that programs of every user may take on most systems."""

MAX_PORT = 65_535
ORCHESTRATOR = re.compile(r"(tcp|udp|sctp)://\S+")
"""Value that Kubernetes and Docker write into `X_PORT` for a service or container named X."""

WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not listened on
"""Addresses that stand for every interface, and a local address that reaches each."""

ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Errors of an address that this machine does not have."""

SocketAddress = tuple[Any, ...]
"""Host and port, with two more numbers for IPv6."""


@dataclass(frozen=True)
class ListenAddress:
    """Address to listen on. `host`: a name or an IP address, without brackets.

    `port`: None takes the first free one from `DEFAULT_PORT` on. 0 takes any free one.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    tries: int = DEFAULT_TRIES

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "ListenAddress":
        """Read `environ` (default: the process's). Raises `InvalidSettings`."""
        environ = os.environ if environ is None else environ
        host, port, tries = (environ.get(name, "").strip() for name in (NAME, PORT, TRIES))
        is_set = port and not ORCHESTRATOR.fullmatch(port)
        return cls(
            host.lower().removeprefix("[").removesuffix("]") or cls.host,
            _number(PORT, port, 0) if is_set else None,
            _number(TRIES, tries, 1) if tries else DEFAULT_TRIES,
        )

    def export(self, environ: MutableMapping[str, str]) -> None:
        """Write the port into `environ` as Gradio expects it: other values break its import."""
        for name in (PORT, TRIES, "GRADIO_NODE_NUM_PORTS"):
            environ.pop(name, None)
        if self.port is not None:
            environ[PORT] = str(self.port)
        if self.tries != DEFAULT_TRIES:
            environ[TRIES] = str(self.tries)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the address, as far as it can be resolved."""
        with suppress(InvalidSettings):
            return all(_is_loopback(each[1][0]) for each in self._resolved(0))
        return False

    def bind(self) -> "Listener":
        """Take the port. Raises `InvalidSettings` if that is impossible."""
        if self.port is not None:
            return self._bind(self.port)
        last = min(DEFAULT_PORT + self.tries, MAX_PORT + 1)
        for port in range(DEFAULT_PORT, last):
            try:
                return self._bind(port)
            except InvalidSettings as refusal:
                if not _is_busy(refusal.__cause__):
                    raise
        raise InvalidSettings("ports_taken", first=DEFAULT_PORT, last=last - 1, variable=PORT)

    def _bind(self, port: int) -> "Listener":
        with ExitStack() as opened:
            sockets: list[socket.socket] = []
            for family, address in self._resolved(port):
                if sockets and port == 0:  # the same one for IPv4 and IPv6
                    address = (address[0], sockets[0].getsockname()[1], *address[2:])
                try:
                    sockets.append(opened.enter_context(_bound(family, address)))
                except OSError as error:
                    if sockets and error.errno in ABSENT:
                        continue  # a name that has an IPv6 address on a machine without IPv6
                    raise self._refusal(error, port) from error
            opened.pop_all()
        return Listener(self.host, sockets)

    def _resolved(self, port: int) -> list[tuple[socket.AddressFamily, SocketAddress]]:
        """Addresses of `host`, IPv4 first."""
        try:
            entries = socket.getaddrinfo(self.host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise InvalidSettings("host_unknown", variable=NAME, host=self.host) from error
        addresses = dict.fromkeys((entry[0], entry[4]) for entry in entries)
        return sorted(addresses, key=lambda pair: pair[0] != socket.AF_INET)

    def _refusal(self, error: OSError, port: int) -> InvalidSettings:
        if _is_busy(error):
            return InvalidSettings("port_taken", port=port, variable=PORT)
        if error.errno in (errno.EACCES, errno.EPERM) and port < FIRST_FREE_PORT:
            return InvalidSettings(
                "port_reserved", port=port, variable=PORT, least=FIRST_FREE_PORT, most=MAX_PORT
            )
        if error.errno in ABSENT:
            return InvalidSettings("host_foreign", variable=NAME, host=self.host)
        return InvalidSettings(
            "listen_failed",
            host=self.host,
            port=port,
            reason=error.strerror or str(error),
            variable=NAME,
            port_variable=PORT,
        )


@dataclass(frozen=True)
class Listener:
    """Bound sockets. `url`: their address for programs on this machine, with a slash at the end."""

    host: str
    sockets: list[socket.socket] = field(repr=False)

    @property
    def port(self) -> int:
        number: int = self.sockets[0].getsockname()[1]
        return number

    @property
    def url(self) -> str:
        address = str(self.sockets[0].getsockname()[0])
        host = WILDCARDS.get(address, address)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"


def _bound(family: socket.AddressFamily, address: SocketAddress) -> socket.socket:
    """A socket bound to `address` that refuses connections until it listens."""
    # Without the protocol, the event loop would not set TCP_NODELAY.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # on Windows this would share the port with another program
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            both = address[0] == "::" and socket.has_dualstack_ipv6()
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
        bound.bind(address)
    except BaseException:  # Ctrl-C too: no socket may stay open
        bound.close()
        raise
    return bound


def _is_busy(error: BaseException | None) -> bool:
    """Whether another program listens on the port. Windows may report that as EACCES."""
    busy = {errno.EADDRINUSE, errno.EACCES} if os.name == "nt" else {errno.EADDRINUSE}
    return isinstance(error, OSError) and error.errno in busy


def _number(name: str, text: str, least: int) -> int:
    number = int(text) if re.fullmatch(r"[0-9]{1,5}", text) else -1
    if not least <= number <= MAX_PORT:
        raise InvalidSettings("port_invalid", variable=name, least=least, most=MAX_PORT)
    return number


def _is_loopback(address: str | int) -> bool:
    return ipaddress.ip_address(plain_address(str(address).partition("%")[0])).is_loopback
