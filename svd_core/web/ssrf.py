"""SSRF guard: URL and address checks for URLs that users supply."""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpx

from svd_core.errors import InvalidUrl

Address = IPv4Address | IPv6Address

MAX_URL = 8192
"""Characters of an address. Signed addresses of object stores have some 2,000."""

BLOCKED_NETWORKS = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # "this machine", which systems take for loopback
        "169.254.0.0/16", "fe80::/10",  # link-local, where clouds hand out their credentials
        "100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32", "fd00:ec2::254/128",  # as well
        "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16",  # IPv4 in disguise
    )
)  # fmt: skip
"""Refused even where private addresses are allowed."""

PRIVATE_NETWORKS = tuple(
    ip_network(text)
    for text in (
        "100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15",
        "2001::/23", "2001:db8::/32", "3fff::/20",
    )
)  # fmt: skip
"""Versions of Python differ in whether these are global."""

GLOBAL_V6 = ip_network("2000::/3")
"""All of IPv6 that is in use on the internet."""

LOOPBACK_NETWORKS = tuple(ip_network(text) for text in ("127.0.0.0/8", "::1/128"))

HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f]*:[0-9a-f:.]+(%.+)?", re.IGNORECASE)
"""A name as the name service knows it (other alphabets are rewritten before), or IPv6."""

NUMERIC_HOST = re.compile(r"(^|\.)(0x[0-9a-f]*|[0-9]+)\.?$", re.IGNORECASE)
"""How a host ends that systems read as an IPv4 address, however odd: 2130706433, 0177.1, 0x7f.1."""


def parse_url(url: str) -> httpx.URL:
    """`url` if it is of the form that may be asked at all. Raises `InvalidUrl`."""
    if len(url) > MAX_URL:
        raise InvalidUrl(f"The address is longer than {MAX_URL} characters; use a shorter one.")
    try:
        found = httpx.URL(url)
    except (httpx.InvalidURL, TypeError, ValueError):
        raise InvalidUrl("The address cannot be read; check it for typing errors.") from None
    host = found.raw_host.decode("ascii")
    if found.scheme not in ("http", "https") or not host:
        raise InvalidUrl("The address must begin with http:// or https://.")
    if not HOST.fullmatch(host):
        raise InvalidUrl("The host in the address cannot be read; check it for typing errors.")
    if found.userinfo:
        raise InvalidUrl("The address must not carry a user name or password.")
    if found.port not in (None, 80, 443, *range(1024, 65536)):
        raise InvalidUrl("The address has an unusual port; use 80, 443 or one from 1024 on.")
    if NUMERIC_HOST.search(host) and parse_ip(host) is None:
        raise InvalidUrl("The address has an unusual number as its host; write it as 192.0.2.1.")
    return found


def parse_ip(host: str) -> Address | None:
    """The address that `host` is, or None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def check_addresses(host: str, found: Sequence[str], allow_private: bool) -> list[Address]:
    """All that `host` leads to. Raises `InvalidUrl` if a single one is not to be asked: the name's
    owner chose them all."""
    addresses = [unmap_ipv4(ip_address(text.partition("%")[0])) for text in found]
    if not addresses or not all(is_allowed(address, allow_private) for address in addresses):
        raise InvalidUrl(
            f"{host[:100]} is an address inside a private network, which this server does not ask."
        )
    return addresses


def unmap_ipv4(address: Address) -> Address:
    """The IPv4 address that is meant by an IPv6 one that only wraps it."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_allowed(address: Address, allow_private: bool = False) -> bool:
    if address in LOOPBACK_NETWORKS[address.version == 6]:
        return allow_private
    if address.is_multicast or address == ip_address("255.255.255.255"):
        return False
    if any(
        address in network for network in BLOCKED_NETWORKS if network.version == address.version
    ):
        return False
    return allow_private or is_public(address)


def is_public(address: Address) -> bool:
    if any(
        address in network for network in PRIVATE_NETWORKS if network.version == address.version
    ):
        return False
    usual = address.version == 4 or address in GLOBAL_V6
    return usual and address.is_global and not address.is_reserved
