"""HTTP client for untrusted URLs: SSRF guard with DNS pinning, limits of size, time and redirects.

It downloads photos and delivers webhooks, the only requests that the program makes to URLs of
users. The SSRF guard checks the URL and every address that its host resolves to. The client uses no
cookie, key or proxy of this machine.
"""

import re
import socket
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import anyio
import anyio.to_thread
import httpx

from svd_core import __version__
from svd_core.errors import InvalidUrl, Unreachable
from svd_core.media.image import MAX_BYTES
from svd_core.web.proxy_headers import plain_address

Address = IPv4Address | IPv6Address

MAX_URL = 8192
"""Characters of a URL. Signed URLs of object stores have some 2,000."""

BLOCKED_NETWORKS = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # "this machine", which systems treat as loopback
        "169.254.0.0/16", "fe80::/10",  # link-local, where clouds serve their credentials
        "100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32", "fd00:ec2::254/128",  # the same
        "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16",  # IPv4 within IPv6
    )
)  # fmt: skip
"""Refused even if private addresses are allowed."""

PRIVATE_NETWORKS = tuple(
    ip_network(text)
    for text in (
        "100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15",
        "2001::/23", "2001:db8::/32", "3fff::/20",
    )
)  # fmt: skip
"""Private networks that some versions of Python count as global."""

GLOBAL_V6 = ip_network("2000::/3")
"""All IPv6 addresses in use on the internet."""

HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f]*:[0-9a-f:.]+(%.+)?", re.IGNORECASE)
"""A DNS name (other alphabets in punycode), or an IPv6 address."""

NUMERIC_HOST = re.compile(r"(^|\.)(0x[0-9a-f]*|[0-9]+)\.?$", re.IGNORECASE)
"""End of a host that systems parse as an IPv4 address: 2130706433, 0177.1, 0x7f.1."""


def parse_url(url: str) -> httpx.URL:
    """Parse a URL of an allowed form. Raises `InvalidUrl`."""
    if len(url) > MAX_URL:
        raise InvalidUrl("url_too_long", most=MAX_URL)
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError, ValueError):
        raise InvalidUrl("url_invalid") from None
    host = parsed.raw_host.decode("ascii")
    if parsed.scheme not in ("http", "https") or not host:
        raise InvalidUrl("url_scheme_unsupported")
    if not HOST.fullmatch(host):
        raise InvalidUrl("url_host_invalid")
    if parsed.userinfo:
        raise InvalidUrl("url_has_password")
    if parsed.port not in (None, 80, 443, *range(1024, 65536)):
        raise InvalidUrl("url_port_refused")
    if NUMERIC_HOST.search(host) and parse_ip(host) is None:
        raise InvalidUrl("url_host_numeric")
    return parsed


def parse_ip(host: str) -> Address | None:
    """Parse an IP address; None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def check_addresses(host: str, resolved: Sequence[str], allow_private: bool) -> list[Address]:
    """Check all addresses of `host`, each of which the owner of the name has chosen.

    Raises `InvalidUrl` if a single one is not allowed.
    """
    addresses = [ip_address(plain_address(text.partition("%")[0])) for text in resolved]
    if not addresses or not all(is_allowed(address, allow_private) for address in addresses):
        raise InvalidUrl("url_private", host=host[:100])
    return addresses


def is_allowed(address: Address, allow_private: bool = False) -> bool:
    """Whether requests to `address` are allowed. `allow_private`: also within private networks."""
    if address.is_loopback:
        return allow_private
    if address.is_multicast or address == ip_address("255.255.255.255"):
        return False
    if any(address in network for network in BLOCKED_NETWORKS):
        return False
    return allow_private or is_public(address)


def is_public(address: Address) -> bool:
    """Whether `address` is on the public internet."""
    if any(address in network for network in PRIVATE_NETWORKS):
        return False
    assigned = address.version == 4 or address in GLOBAL_V6
    return assigned and address.is_global and not address.is_reserved


MAX_REDIRECTS = 5
CONNECT_TIMEOUT_S = 5.0
"""Seconds for a connection, and for each piece of a response."""

CHECK_TIMEOUT_S = 3.0
"""Seconds for `check`, which only resolves the host."""

DEFAULT_HEADERS = {
    "User-Agent": f"svd-studio/{__version__}",
    "Accept-Encoding": "identity",
    "Connection": "close",
}

IMAGE_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
"""Content types of photos. Object stores send the last two for any file."""

Resolve = Callable[[str, int], Sequence[str]]
"""Resolves (host, port) to all addresses, as text. Raises `OSError`."""


def system_resolver(host: str, port: int) -> Sequence[str]:
    """The resolver of the operating system."""
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


@dataclass(frozen=True)
class Fetcher:
    """HTTP client for URLs of users.

    `allow_private`: whether requests may go to private networks and to this machine.
    `photo_timeout_s`, `post_timeout_s`: seconds for a whole exchange. `resolve` and `transport` are
    replaced in tests.
    """

    allow_private: bool = False
    photo_timeout_s: float = 20.0
    post_timeout_s: float = 15.0
    resolve: Resolve = system_resolver
    transport: Callable[[], httpx.AsyncBaseTransport] | None = None

    def photo(self, url: str) -> bytes:
        """Download the photo at `url`, following redirects. Not for use within an event loop.

        Returns at most one byte more than a photo may have: the core then refuses it.
        Raises `InvalidUrl`.
        """
        photo = bytearray()  # filled, not returned: asyncio would build a long repr of it
        anyio.run(self._photo, url, photo)
        return bytes(photo)

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Post `body`. Returns the status of the response. Not for use within an event loop.

        Raises `Unreachable` without a response, `InvalidUrl` if `url` is not allowed.
        """
        return anyio.run(self._post, url, body, headers)

    async def check(self, url: str, limiter: anyio.CapacityLimiter | None = None) -> None:
        """Check `url` without a request. `limiter`: of the threads that resolve hosts.

        Raises `InvalidUrl` if it is not allowed, `Unreachable` if its host does not resolve.
        """
        async with _deadline(parse_url(url).host, CHECK_TIMEOUT_S):
            await self._resolve(parse_url(url), limiter)

    async def _photo(self, url: str, photo: bytearray) -> None:
        host = parse_url(url).host
        headers = {"Accept": "image/*, */*;q=0.1"}
        async with _deadline(host, self.photo_timeout_s), self._transport() as transport:
            target = parse_url(url)
            for _ in range(MAX_REDIRECTS + 1):
                response = await self._send_pinned(
                    transport, httpx.Request("GET", target, headers=headers)
                )
                try:
                    if not response.has_redirect_location:
                        await _read_photo(response, host, photo)
                        return
                    target = _redirect_target(target, response.headers["Location"])
                finally:
                    await response.aclose()
        raise Unreachable("url_redirects_exceeded", host=host)

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        request = httpx.Request("POST", parse_url(url), content=body, headers=headers)
        async with _deadline(request.url.host, self.post_timeout_s), self._transport() as transport:
            response = await self._send_pinned(transport, request)
            await response.aclose()
            return response.status_code

    @asynccontextmanager
    async def _transport(self) -> AsyncIterator[httpx.AsyncBaseTransport]:
        if self.transport is not None:
            yield self.transport()
            return
        # Uses the certificates of the environment (SSL_CERT_FILE), but not its proxies.
        async with httpx.AsyncHTTPTransport(verify=httpx.create_ssl_context()) as transport:
            yield transport

    async def _send_pinned(
        self, transport: httpx.AsyncBaseTransport, request: httpx.Request
    ) -> httpx.Response:
        """Send to the first address that accepts a connection. Does not read the response body."""
        url = request.url
        problem: Exception = OSError()
        for address in await self._resolve(url):
            pinned = httpx.Request(
                request.method,
                url.copy_with(host=str(address)),
                headers={**DEFAULT_HEADERS, **request.headers},  # the latter have the host name
                stream=request.stream,
                extensions={
                    "timeout": httpx.Timeout(CONNECT_TIMEOUT_S).as_dict(),
                    "sni_hostname": url.raw_host.decode("ascii"),
                },
            )
            try:
                return await transport.handle_async_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                problem = error
        raise problem

    async def _resolve(
        self, url: httpx.URL, limiter: anyio.CapacityLimiter | None = None
    ) -> list[Address]:
        host = url.raw_host.decode("ascii")
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        resolved: Sequence[str] = [host]
        if parse_ip(host) is None:
            resolved = await anyio.to_thread.run_sync(
                self.resolve, host, port, abandon_on_cancel=True, limiter=limiter
            )
        return check_addresses(url.host, resolved, self.allow_private)


@asynccontextmanager
async def _deadline(host: str, seconds: float) -> AsyncIterator[None]:
    """Set a deadline, and turn network errors into `Unreachable`.

    They name only the host, because the rest of the URL may contain a secret.
    """
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError:
        raise Unreachable("url_timed_out", host=host, seconds=seconds) from None
    except (OSError, UnicodeError):
        raise Unreachable("url_host_unreachable", host=host) from None
    except httpx.TimeoutException:
        raise Unreachable("url_silent", host=host) from None
    except (httpx.HTTPError, httpx.StreamError):
        raise Unreachable("url_connection_failed", host=host) from None


def _redirect_target(url: httpx.URL, location: str) -> httpx.URL:
    try:
        return parse_url(str(url.join(location)))
    except httpx.InvalidURL:
        raise Unreachable("url_redirect_invalid", host=url.host) from None


async def _read_photo(response: httpx.Response, host: str, photo: bytearray) -> None:
    """Read the body of `response` into `photo`, decompressed and limited. Raises `Unreachable`."""
    if response.status_code != 200:
        raise Unreachable("url_status", host=host, status=response.status_code)
    content_type = response.headers.get("Content-Type", IMAGE_TYPES[1]).strip().lower()
    if not content_type.startswith(IMAGE_TYPES):
        name = content_type.partition(";")[0][:40]
        raise Unreachable("url_not_image", host=host, type=repr(name))
    decode = _decoder(response.headers.get("Content-Encoding", "identity"), host)
    received = 0
    async for piece in response.aiter_raw():
        received += len(piece)
        photo += decode(piece, MAX_BYTES + 1 - len(photo))
        if max(received, len(photo)) > MAX_BYTES:  # compressed data may be the longer
            photo[:] = bytes(MAX_BYTES + 1)
            return


def _decoder(encoding: str, host: str) -> Callable[[bytes, int], bytes]:
    """Make a decoder of pieces, with a limit of bytes for each result.

    Compression is not requested, but some stores serve files that they keep compressed.
    """
    if encoding.strip().lower() in ("", "identity"):
        return lambda piece, limit: piece[:limit]
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        raise Unreachable("url_encoding_unsupported", host=host)
    decompressor = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: detects gzip or zlib

    def decompress(piece: bytes, limit: int) -> bytes:
        try:
            return decompressor.decompress(decompressor.unconsumed_tail + piece, limit)
        except zlib.error:
            raise Unreachable("url_encoding_damaged", host=host) from None

    return decompress
