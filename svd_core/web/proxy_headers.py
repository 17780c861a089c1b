"""Headers of reverse proxies: the address that visitors use, and the addresses of visitors.

Reads `Forwarded` (RFC 7239) and `X-Forwarded-*` in each of their forms. Invalid values count as
absent. uvicorn's variable `FORWARDED_ALLOW_IPS` sets which peers are trusted.
"""

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress

from svd_core.errors import InvalidSettings

NETLOC = re.compile(r"[A-Za-z0-9._-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")
PREFIX = re.compile(r"(/[A-Za-z0-9._~!$&'()*+;=:@%-]+)+")

X_FORWARDED = {
    "x-forwarded-ssl": "proto",
    "x-forwarded-protocol": "proto",
    "x-forwarded-scheme": "proto",
    "x-forwarded-proto": "proto",
    "x-forwarded-host": "host",
    "x-forwarded-port": "port",
    "x-forwarded-prefix": "prefix",
}
"""Meaning of each header. Later ones are more common and override earlier ones."""

VALID = {
    "proto": re.compile("https?"),
    "host": NETLOC,
    "port": re.compile(r"\d{1,5}"),
    "prefix": PREFIX,
}

SSL = {"on": "https", "ssl": "https", "off": "http"}
"""Values of the first two headers."""

PAIR = re.compile(r'[\s;]*([^\s=;,"]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;,"]*)\s*')
"""A parameter of `Forwarded`, whose value may be quoted."""

TRUSTED = "FORWARDED_ALLOW_IPS"
DEFAULT_TRUSTED = "127.0.0.1,::1"


def trusted_proxies(environ: Mapping[str, str] | None = None) -> str:
    """Addresses and networks of trusted proxies, as uvicorn reads them; * means all.

    `environ`: default the process's. Raises `InvalidSettings`.
    """
    environ = os.environ if environ is None else environ
    entries = re.split(r"[\s,;]+", environ.get(TRUSTED, "").strip(" \t\n,;"))
    if entries == [""]:
        return DEFAULT_TRUSTED
    return "*" if "*" in entries else ",".join(map(_network, entries))


def _network(entry: str) -> str:
    """An address or network in the form that uvicorn compares with peers."""
    if entry.lower() == "localhost":
        return DEFAULT_TRUSTED
    with suppress(ValueError):
        network = ipaddress.ip_network(entry.replace("[", "").replace("]", ""), strict=False)
        if network.prefixlen < network.max_prefixlen:
            return str(network)
        return plain_address(str(network.network_address))
    raise InvalidSettings("trusted_proxies_invalid", variable=TRUSTED, value=entry)


def plain_address(address: str) -> str:
    """`address`, or the IPv4 address that a socket for both kinds shows as IPv6."""
    with suppress(ValueError):
        mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None)
        return address if mapped is None else str(mapped)
    return address


def public_parts(headers: Mapping[str, str], called: str = "") -> dict[str, str]:
    """The valid parts of a public URL in a proxy's headers: proto, host with port, and prefix.

    Of several proxies the first one counts, which is the one that visitors reach. `called`: the
    host of a port if the proxy names no other.
    """
    parts = dict(_valid_parts(headers))
    host, port = parts.get("host", called), parts.pop("port", "")
    if port not in ("", "80", "443") and re.fullmatch(r"[^:]+|\[.+\]", host):
        parts["host"] = f"{host}:{port}"
    return parts


def _valid_parts(headers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    parts = dict(next(forwarded_elements(headers.get("forwarded", "")), {}))
    for header, name in X_FORWARDED.items():
        if value := headers.get(header, "").partition(",")[0].strip():
            parts[name] = value
    for name, value in parts.items():
        if name in VALID and VALID[name].fullmatch(value := _normalize(name, value)):
            yield name, value


def _normalize(name: str, value: str) -> str:
    if name == "proto":
        return SSL.get(value.lower(), value.lower())
    if name == "prefix":
        return f"/{value.rstrip('/').removeprefix('/')}"
    with suppress(ValueError):
        return f"[{ipaddress.IPv6Address(value)}]"
    return value


def forwarded_elements(text: str) -> Iterator[dict[str, str]]:
    """The parameters of each proxy in a header `Forwarded`, with names in lower case."""
    element: dict[str, str] = {}
    place = 0
    while match := PAIR.match(text, place):
        name, value = match.groups()
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        element.setdefault(name.lower(), value)
        place = match.end()
        if text[place : place + 1] == ",":
            yield element
            element, place = {}, place + 1
        elif text[place : place + 1] != ";":
            break
    if element:
        yield element
