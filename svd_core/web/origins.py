"""Host and Origin checks against DNS rebinding and cross-site request forgery (CSRF).

Every web page in a browser can reach a server on the loopback interface of the same machine: by its
address (forgery), or by a foreign name that resolves to it (rebinding). Browsers send Host and
Origin truthfully, but other programs need not. So this protects users of browsers and is not access
control.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from svd_core.settings import Settings, space_url
from svd_core.web.listener import ListenAddress
from svd_core.web.proxy_headers import public_parts
from svd_core.web.public_address import configured_url

LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|\[::1\]")
IP_ADDRESS = re.compile(r"\d{1,3}(\.\d{1,3}){3}|\[[0-9a-f:.]+\]")
PRIVATE_NAME = re.compile(r"[^.]+|.+\.(local|internal|lan|home\.arpa)")
"""Names that cannot be registered on the internet: without a dot, or of reserved domains."""

NETLOC = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")
ORIGIN = re.compile(r"https?://([^/?#@\s]+)")

HOST_REFUSED = (
    "This server does not answer to that host name. Call it by localhost, or set SVD_PUBLIC_URL to "
    "the address that visitors use and start it again."
)
ORIGIN_REFUSED = (
    "Only the server's own page may call it. Set SVD_PUBLIC_URL to the address that visitors use, "
    "or SVD_ALLOWED_ORIGINS to other pages that may call it, and start it again."
)

ANY = "*"


def reachable_locally_only() -> bool:
    """Whether Gradio will serve only programs on this machine."""
    shared = os.environ.get("GRADIO_SHARE", "").lower() == "true"
    return not shared and ListenAddress.from_env().is_loopback


def is_loopback(netloc: str) -> bool:
    """Whether a Host header, or the part of an origin after its scheme, names this machine."""
    return LOOPBACK.fullmatch(_hostname(netloc)) is not None


def origin_netloc(origin: str) -> str | None:
    """Host and port of an Origin header; None for "null" and for invalid ones."""
    match = ORIGIN.fullmatch(origin.lower())
    return match[1] if match and NETLOC.fullmatch(match[1]) else None


@dataclass(frozen=True)
class OriginPolicy:
    """Policy for the Host and Origin headers of requests for the page, its uploads and MCP.

    `local`: only this machine reaches the server. `public`: host[:port] of its public URLs.
    `allowed`: host[:port] of foreign pages that may call it, or `ANY`. `login`: visitors have a
    cookie, which a foreign page must not use. `named`: the server has no names but `public`.
    """

    local: bool
    login: bool = False
    named: bool = False
    public: frozenset[str] = frozenset()
    allowed: frozenset[str] = frozenset()

    @classmethod
    def from_settings(cls, settings: Settings, *, local: bool) -> "OriginPolicy":
        space, url = space_url(), configured_url(settings)
        allowed = {origin.strip() for origin in settings.allowed_origins.split(",")} - {""}
        if space and not settings.page_auth and not allowed:
            allowed = {ANY}  # a public Space may be embedded anywhere, and has no login
        return cls(
            local=local,
            login=bool(settings.page_auth),
            named=bool(url and url != space),
            public=_netlocs([url, space]),
            allowed=frozenset({ANY}) if ANY in allowed else _netlocs(allowed),
        )

    def refusal(self, headers: Headers) -> str | None:
        """Why a request with `headers` is refused; None if it is allowed."""
        hosts = headers.getlist("host")
        if len(hosts) > 1 or not all(self._may_call(_plain(host)) for host in hosts):
            return HOST_REFUSED
        origin = headers.get("origin")
        if origin is None or ANY in self.allowed:
            return None
        netloc = origin_netloc(origin)
        if netloc is None:
            return ORIGIN_REFUSED
        local = self.local and not self.login and is_loopback(netloc)
        allowed = local or _plain(netloc) in self.allowed or self.is_own(headers)
        return None if allowed else ORIGIN_REFUSED

    def is_own(self, headers: Headers) -> bool:
        """Whether the Origin in `headers` is that of a page of this server."""
        # A page cannot set headers of proxies across origins: that takes a preflight, which fails.
        host = headers.get("host", "")
        forwarded = public_parts(headers, host).get("host", "")
        netlocs = {_plain(host), _plain(forwarded), *self.public}
        origin = origin_netloc(headers.get("origin", ""))
        return origin is not None and _plain(origin) in netlocs

    def _may_call(self, host: str) -> bool:
        name = _hostname(host)
        if not self.local and not self.named:
            return True
        if is_loopback(host) or any(name == _hostname(netloc) for netloc in self.public):
            return True
        return not self.local and bool(IP_ADDRESS.fullmatch(name) or PRIVATE_NAME.fullmatch(name))


def _netlocs(urls: Iterable[str]) -> frozenset[str]:
    return frozenset(_plain(urlsplit(url).netloc) for url in urls if url)


def _plain(netloc: str) -> str:
    """Lower case, without ports 80 and 443: behind a TLS proxy the scheme is unknown."""
    lower = netloc.lower()
    return lower.removesuffix(":80").removesuffix(":443")


def _hostname(netloc: str) -> str:
    """Host name of `netloc`, without port and final dot."""
    match = NETLOC.fullmatch(netloc.lower())
    return match[1].removesuffix(".") if match else ""
