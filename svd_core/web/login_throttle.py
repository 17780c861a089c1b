"""Login throttling: a token bucket of failed attempts for each client address.

`BURST` wrong passwords go at once, then one every `REFILL_S` seconds. Whoever logs in gets the
attempt back. Addresses with a full bucket are forgotten, and at most `MAX_ADDRESSES` are known.
"""

import time
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network

BURST = 10
REFILL_S = 6.0
MAX_ADDRESSES = 10_000

TOO_MANY = "Too many wrong passwords; please wait a minute and try again."


class LoginThrottle:
    """`clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at: dict[str, float] = {}  # by network: when its bucket is full again

    def admit(self, address: str) -> bool:
        """Take an attempt; False if there is none left, which costs nothing."""
        now, network = self._clock(), network_of(address)
        full_at = max(self._full_at.get(network, now), now) + REFILL_S
        if full_at - now > BURST * REFILL_S:
            return False
        if network not in self._full_at and len(self._full_at) >= MAX_ADDRESSES:
            self._forget(now)
        self._full_at[network] = full_at
        return True

    def refund(self, address: str) -> None:
        """The attempt did not fail."""
        network = network_of(address)
        if network in self._full_at:
            self._full_at[network] -= REFILL_S

    def _forget(self, now: float) -> None:
        kept = {network: at for network, at in self._full_at.items() if at > now}
        while len(kept) >= MAX_ADDRESSES:
            del kept[next(iter(kept))]
        self._full_at = kept


def network_of(address: str) -> str:
    """What one client counts as: its IPv4 address, or its network of 64 bits in IPv6."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ip_network((found, 64), strict=False))
    return str(found)
