"""Rate limits by client address: login throttling, and a quota of open jobs.

IPv6 clients count by their /64 network. Counts are lost at a restart.
"""

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from ipaddress import ip_address, ip_network

from svd_core.errors import QueueFull
from svd_core.jobs import Job
from svd_core.web.proxy_headers import plain_address

BURST = 10
"""Failed logins at once, before `REFILL_S` applies."""

REFILL_S = 6.0
MAX_ADDRESSES = 10_000

client_address: ContextVar[str] = ContextVar("client_address", default="")
"""Address of the current request, set by `GuardMiddleware`. Threads that a request starts see it,
but Gradio's queue does not pass it on."""


class LoginThrottle:
    """Token bucket of failed logins for each client.

    A bucket has `BURST` tokens and gets one back every `REFILL_S` seconds. Addresses with a full
    bucket are forgotten, and at most `MAX_ADDRESSES` are kept. `clock`: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at: dict[str, float] = {}  # by network: when its bucket is full again

    def admit(self, address: str) -> bool:
        """Take a token. Returns False, and takes nothing, if there is none left."""
        now, network = self._clock(), network_of(address)
        full_at = max(self._full_at.get(network, now), now) + REFILL_S
        if full_at - now > BURST * REFILL_S:
            return False
        if network not in self._full_at and len(self._full_at) >= MAX_ADDRESSES:
            self._forget(now)
        self._full_at[network] = full_at
        return True

    def refund(self, address: str) -> None:
        """Put the token back after a successful login."""
        network = network_of(address)
        if network in self._full_at:
            self._full_at[network] -= REFILL_S

    def _forget(self, now: float) -> None:
        kept = {network: at for network, at in self._full_at.items() if at > now}
        while len(kept) >= MAX_ADDRESSES:
            del kept[next(iter(kept))]
        self._full_at = kept


class AddressQuota:
    """Quota of open jobs for each client, for pages without a login. Thread-safe.

    `limit`: open jobs of one client; 0: no limit.
    """

    def __init__(self, limit: int = 0) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._jobs: list[tuple[str, Job]] = []  # the open ones, each with its network

    def submit(self, address: str, submit: Callable[[], Job]) -> Job:
        """Submit a job if the quota allows. Raises `QueueFull`.

        All clients of unknown address ("") share one quota.
        """
        if not self._limit:
            return submit()
        with self._lock:
            self._jobs = [(network, job) for network, job in self._jobs if not job.done]
            network = network_of(address)
            count = sum(other == network for other, _ in self._jobs)
            if count >= self._limit:
                raise QueueFull("network_queue_full", count=count)
            job = submit()
            self._jobs.append((network, job))
            return job


def network_of(address: str) -> str:
    """The identity of a client: its IPv4 address, or its /64 network in IPv6."""
    try:
        ip = ip_address(plain_address(address))
    except ValueError:
        return address
    return str(ip if ip.version == 4 else ip_network((ip, 64), strict=False))
