"""Proxy variables of the environment: prepared so that libraries can read them.

Downloads of checkpoints go through proxies. Calls to this machine never do, which some forms of the
variables would prevent. Other forms make every HTTP client fail. Photos and webhooks at users'
addresses use no proxy.
"""

import ipaddress
import re
from collections.abc import MutableMapping
from contextlib import suppress
from importlib.util import find_spec
from urllib.parse import urlsplit
from urllib.request import getproxies

from svd_core.errors import InvalidSettings

SCHEMES = ("http", "https", "all")
"""Kinds of proxies that HTTP clients read: `HTTP_PROXY` and so on."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")
SOCKS = ("socks5", "socks5h")
UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\xa0\ud800-\udfff]")
NAME = re.compile(r"[A-Za-z0-9_*.-]+(:\d{1,5})?")


def prepare_proxies(environ: MutableMapping[str, str], host: str = "") -> None:
    """Write the proxies of the environment, or of the system, into `environ` in one form.

    `host`: another name or address of this machine. Raises `InvalidSettings` for a proxy that
    cannot be used, without its address: that may hold a password. Without proxies nothing changes.
    """
    found = _proxies(environ)
    if not any(found.get(scheme) for scheme in SCHEMES):
        return
    for scheme in SCHEMES:
        variable = f"{scheme}_proxy"
        url = _usable(variable.upper(), found.get(scheme, ""))
        for name in [name for name in environ if name.lower() == variable]:
            del environ[name]
        if url:
            environ[variable] = environ[variable.upper()] = url
    exempt = ",".join(dict.fromkeys([*_exempt(found.get("no", "")), *LOOPBACK, *_exempt(host)]))
    environ["no_proxy"] = environ["NO_PROXY"] = exempt


def _proxies(environ: MutableMapping[str, str]) -> dict[str, str]:
    """Proxies by scheme; those of the system if there are none.

    Lower case counts before every other spelling, of which libraries read any. Files of variables
    may leave quotes around values.
    """
    found = {}
    for name in sorted(environ, key=str.islower):
        scheme, _, end = name.lower().rpartition("_")
        if end == "proxy" and scheme in (*SCHEMES, "no"):
            if value := environ[name].strip().strip("\"'").strip():
                found[scheme] = value
            elif name.islower():
                found.pop(scheme, None)  # an empty one in lower case switches it off
    if not any(scheme in found for scheme in SCHEMES):
        found = {**getproxies(), **found}
    return found


def _usable(variable: str, proxy: str) -> str:
    """`proxy` as a URL that HTTP clients accept; empty if it is. Raises `InvalidSettings`."""
    if not proxy:
        return ""
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    scheme, _, rest = proxy.partition("://")
    scheme = "socks5" if scheme.lower() == "socks" else scheme.lower()  # as GNOME writes it
    reason = ""
    try:
        split = urlsplit(f"{scheme}://{rest}")
        if not split.hostname or split.port == 0 or UNPRINTABLE.search(rest):
            reason = "its host or port is wrong"
        elif ":" not in split.hostname:
            split.hostname.encode("idna")
    except ValueError:
        reason = "its host or port is wrong"
    if scheme and scheme not in ("http", "https", *SOCKS):
        reason = f"proxies of the kind {scheme} are not supported, only http, https and socks5"
    elif scheme in SOCKS and find_spec("socksio") is None:
        reason = "a SOCKS proxy needs the package socksio (pip install 'httpx[socks]')"
    if reason:
        raise InvalidSettings("proxy_invalid", variable=variable, reason=reason)
    return f"{scheme}://{rest}"


def _exempt(listed: str) -> list[str]:
    """Entries of a NO_PROXY list, without those that break HTTP clients."""
    found = []
    for entry in re.split(r"[,;\s]+", listed):
        bare = entry.removeprefix("[").removesuffix("]")
        with suppress(ValueError):
            network = ipaddress.ip_network(bare, strict=False)
            if network.version == 4 or "/" not in bare:
                found.append(bare)
            continue
        if NAME.fullmatch(entry):
            found.append(entry)
    return found
