"""Job quota by network address, for pages that are open without a login.

Counts the open jobs that were submitted here; a restart forgets them. IPv6 clients count by their
network of 64 bits.

The address of the current request is in the context variable `client_address`.
"""

import threading
from collections.abc import Callable
from contextvars import ContextVar

from svd_core.errors import QueueFull
from svd_core.jobs import Job
from svd_core.web.login_throttle import network_of

client_address: ContextVar[str] = ContextVar("client_address", default="")
"""Set by `GuardMiddleware`. Threads that a request starts see it; Gradio's queue does not hand it
on."""


class AddressQuota:
    """`limit`: open jobs of one address; 0: as many as the queue takes. Safe from any thread."""

    def __init__(self, limit: int = 0) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._jobs: dict[str, list[Job]] = {}

    def submit(self, address: str, submit: Callable[[], Job]) -> Job:
        """What `submit` returns. Raises `QueueFull`; an unknown address ("") is one like others."""
        if not self._limit:
            return submit()
        network = network_of(address)
        with self._lock:
            self._forget()
            jobs = self._jobs.get(network, [])
            if len(jobs) >= self._limit:
                raise QueueFull(
                    f"{len(jobs)} videos from your network address are on their way already, which "
                    "is as many as fit; please try again when one is done."
                )
            job = submit()
            self._jobs[network] = [*jobs, job]
            return job

    def _forget(self) -> None:
        still = {
            network: [job for job in jobs if not job.done] for network, jobs in self._jobs.items()
        }
        self._jobs = {network: jobs for network, jobs in still.items() if jobs}
