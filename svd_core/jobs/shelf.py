"""Jobs by id, with finished ones forgotten after a while so that memory stays flat."""

import threading
import time

from svd_core.errors import UnknownJob
from svd_core.jobs.ticket import Ticket

KEPT = 1000
"""Finished jobs remembered at most; one costs a few kilobytes."""


class Shelf:
    """Safe to use from any thread. `keep_s`: seconds a finished job is remembered."""

    def __init__(self, keep_s: float, kept: int = KEPT) -> None:
        self._keep_s = keep_s
        self._kept = kept
        self._lock = threading.Lock()
        self._open: dict[str, Ticket] = {}
        self._finished: dict[str, tuple[float, Ticket]] = {}

    def put(self, ticket: Ticket) -> None:
        with self._lock:
            self._open[ticket.id] = ticket
            self._forget()

    def retire(self, ticket: Ticket) -> None:
        """Start the clock of a ticket that is done. Idempotent."""
        with self._lock:
            if self._open.pop(ticket.id, None) is not None:
                self._finished[ticket.id] = (time.monotonic(), ticket)
            self._forget()

    def find(self, job_id: str) -> Ticket:
        """Raises `UnknownJob`."""
        with self._lock:
            self._forget()
            if (ticket := self._open.get(job_id)) is not None:
                return ticket
            if job_id in self._finished:
                return self._finished[job_id][1]
        raise UnknownJob("This job is not known here any more; please make the video again.")

    def open_tickets(self) -> list[Ticket]:
        """Those that are not retired, oldest first."""
        with self._lock:
            return list(self._open.values())

    def _forget(self) -> None:
        """Drop the longest finished first: dicts keep the order in which jobs finished."""
        oldest = time.monotonic() - self._keep_s
        while self._finished:
            job_id, (finished, _) = next(iter(self._finished.items()))
            if finished > oldest and len(self._finished) <= self._kept:
                return
            del self._finished[job_id]
