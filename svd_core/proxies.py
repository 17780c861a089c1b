"""Proxy variables of the environment: prepared so that libraries can read them.

Downloads of checkpoints use proxies; photos and webhooks do not. Calls to this machine must not
either, but some forms of the variables send them there, and others break every HTTP client.
"""

import ipaddress
import re
from collections.abc import MutableMapping
from contextlib import suppress
from importlib.util import find_spec
from urllib.parse import urlsplit
from urllib.request import getproxies

from svd_core.errors import InvalidSettings
from svd_core.messages import Message

SCHEMES = ("http", "https", "all")
"""Kinds of proxies that HTTP clients read: `HTTP_PROXY` and so on."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")
SOCKS = ("socks5", "socks5h")
UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\xa0\ud800-\udfff]")
NAME = re.compile(r"[A-Za-z0-9_*.-]+(:\d{1,5})?")


def prepare_proxies(environ: MutableMapping[str, str], host: str = "") -> None:
    """Write the proxies of the environment, or of the system, into `environ` in one form.

    `host`: another name or address of this machine. Without proxies nothing changes. Raises
    `InvalidSettings` for an unusable proxy, without its address, which may have a password.
    """
    proxies = _proxies(environ)
    if not any(proxies.get(scheme) for scheme in SCHEMES):
        return
    for scheme in SCHEMES:
        variable = f"{scheme}_proxy"
        url = _usable(variable.upper(), proxies.get(scheme, ""))
        for name in [name for name in environ if name.lower() == variable]:
            del environ[name]
        if url:
            environ[variable] = environ[variable.upper()] = url
    exempt = ",".join(dict.fromkeys([*_exempt(proxies.get("no", "")), *LOOPBACK, *_exempt(host)]))
    environ["no_proxy"] = environ["NO_PROXY"] = exempt


def _proxies(environ: MutableMapping[str, str]) -> dict[str, str]:
    """Proxies by scheme; those of the system if the environment has none.

    Lower case has priority over other spellings, of which libraries read some. Files of variables
    may leave quotes around values.
    """
    proxies = {}
    for name in sorted(environ, key=str.islower):
        scheme, _, end = name.lower().rpartition("_")
        if end == "proxy" and scheme in (*SCHEMES, "no"):
            if value := environ[name].strip().strip("\"'").strip():
                proxies[scheme] = value
            elif name.islower():
                proxies.pop(scheme, None)  # an empty one in lower case switches it off
    if not any(scheme in proxies for scheme in SCHEMES):
        proxies = {**getproxies(), **proxies}
    return proxies


def _usable(variable: str, proxy: str) -> str:
    """`proxy` as a URL that HTTP clients accept; empty if it is. Raises `InvalidSettings`."""
    if not proxy:
        return ""
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    scheme, _, rest = proxy.partition("://")
    scheme = "socks5" if scheme.lower() == "socks" else scheme.lower()  # as GNOME writes it
    reason: Message | None = None
    try:
        split = urlsplit(f"{scheme}://{rest}")
        if not split.hostname or split.port == 0 or UNPRINTABLE.search(rest):
            reason = Message("reason_host_or_port")
        elif ":" not in split.hostname:
            split.hostname.encode("idna")
    except ValueError:
        reason = Message("reason_host_or_port")
    if scheme and scheme not in ("http", "https", *SOCKS):
        reason = Message("reason_proxy_kind", scheme=scheme)
    elif scheme in SOCKS and find_spec("socksio") is None:
        reason = Message("reason_proxy_socks")
    if reason:
        raise InvalidSettings("proxy_invalid", variable=variable, reason=reason)
    return f"{scheme}://{rest}"


def _exempt(listed: str) -> list[str]:
    """Entries of a NO_PROXY list, without those that break HTTP clients."""
    exempt = []
    for entry in re.split(r"[,;\s]+", listed):
        bare = entry.removeprefix("[").removesuffix("]")
        with suppress(ValueError):
            network = ipaddress.ip_network(bare, strict=False)
            if network.version == 4 or "/" not in bare:
                exempt.append(bare)
            continue
        if NAME.fullmatch(entry):
            exempt.append(entry)
    return exempt
