"""Transactional webhook outbox: at-least-once delivery with exponential backoff."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import ColumnElement, select, update

from svd_core.errors import SvdError, UnknownJob
from svd_core.jobs.job import Job
from svd_core.jobs.schema import OUTBOX
from svd_core.jobs.store import JobTable

Send = Callable[[Job, str], None]
"""Posts the outcome of a job to a URL. Any error except `Undeliverable` leads to a retry."""

log = logging.getLogger(__name__)


class Undeliverable(Exception):
    """Raised by `Send` if a retry would be useless. Its text is stored as the reason."""


class Delivery(NamedTuple):
    """Delivery of one webhook. `state`: due, delivered or given up; `problem`: the last error."""

    job_id: str
    url: str
    state: str
    tries: int
    problem: str


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff: `first_s` seconds, doubled with each try up to `most_s`.

    `tries`: most tries. The defaults cover about two and a half hours.
    """

    first_s: float = 20.0
    most_s: float = 3600.0
    tries: int = 10

    def delay_s(self, tries: int) -> float:
        """Seconds to wait after that many tries."""
        return min(self.first_s * 2.0 ** (tries - 1), self.most_s) if tries else 0.0


DEFAULT_RETRY_POLICY = RetryPolicy()


class Outbox:
    """Thread that delivers due webhooks at least once, `max_concurrent` at a time.

    `find` returns a finished job by id (`JobQueue.get`); `send` posts it to an address.
    """

    def __init__(
        self,
        table: JobTable,
        find: Callable[[str], Job],
        send: Send,
        retry_policy: RetryPolicy = DEFAULT_RETRY_POLICY,
        *,
        poll_interval_s: float = 1.0,
        max_concurrent: int = 4,
    ) -> None:
        self._table = table
        self._find = find
        self._send = send
        self._retry_policy = retry_policy
        self._poll_interval_s = poll_interval_s
        self._max_concurrent = max_concurrent
        self._due_at: dict[tuple[str, int], float] = {}
        self._sending: dict[str, threading.Thread] = {}
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="svd-outbox", daemon=True)
        self._thread.start()

    def delivery(self, job_id: str) -> Delivery | None:
        """Delivery of a job's webhook; None if it has none or has not ended."""
        return next(iter(self._deliveries(OUTBOX.c.job_id == job_id)), None)

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop sending. Webhooks not delivered within `timeout_s` are sent after a restart."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout_s)
        for thread in list(self._sending.values()):
            thread.join(timeout_s)

    def _run(self) -> None:
        while not self._closing:
            try:
                self._start_due()
            except SvdError as error:
                log.warning("Webhook delivery is paused, retrying: %s", error)
            self._wake.wait(self._poll_interval_s)
            self._wake.clear()

    def _start_due(self) -> None:
        """Start due deliveries, up to the concurrency limit. A restart restarts the delays."""
        now, due_at = time.monotonic(), self._due_at
        deliveries = self._deliveries(OUTBOX.c.state == "due")
        self._due_at = {
            (job_id, tries): due_at.get((job_id, tries), now + self._retry_policy.delay_s(tries))
            for job_id, _, _, tries, _ in deliveries
        }
        for delivery in deliveries:
            if len(self._sending) >= self._max_concurrent:
                return
            is_due = self._due_at[delivery.job_id, delivery.tries] <= now
            if is_due and delivery.job_id not in self._sending:
                self._start(delivery._replace(tries=delivery.tries + 1))

    def _start(self, delivery: Delivery) -> None:
        self._write(delivery)  # the try is counted before it is made
        thread = threading.Thread(
            target=self._deliver, args=(delivery,), name="svd-webhook", daemon=True
        )
        self._sending[delivery.job_id] = thread
        thread.start()

    def _deliver(self, delivery: Delivery) -> None:
        try:
            self._write(self._attempt(delivery))
        except SvdError as error:
            log.warning(
                "Cannot save that job %s's webhook was sent, so it may be sent again: %s",
                delivery.job_id, error,
            )  # fmt: skip
        finally:
            del self._sending[delivery.job_id]
            self._wake.set()

    def _attempt(self, delivery: Delivery) -> Delivery:
        """Send once. Returns the delivery with its new state."""
        job_id, tries = delivery.job_id, delivery.tries
        try:
            self._send(self._find(job_id), delivery.url)
        except Exception as error:  # noqa: BLE001 - any error may be over at the next try
            hopeless = isinstance(error, Undeliverable | UnknownJob)
            problem = str(error) if hopeless else f"{type(error).__name__}: {error}"[:500]
            if not hopeless and tries < self._retry_policy.tries:
                return delivery._replace(problem=problem)
            log.warning("Gave up the webhook of job %s after %d tries: %s", job_id, tries, problem)
            return delivery._replace(state="given up", problem=problem)
        return delivery._replace(state="delivered", problem="")

    def _deliveries(self, condition: ColumnElement[bool]) -> list[Delivery]:
        columns = [OUTBOX.c[name] for name in Delivery._fields]
        with self._table.database.read() as connection:
            rows = connection.execute(select(*columns).where(condition).limit(1000))
            return [Delivery(*row) for row in rows]

    def _write(self, delivery: Delivery) -> None:
        changes = update(OUTBOX).where(OUTBOX.c.job_id == delivery.job_id)
        with self._table.database.write() as connection:
            connection.execute(changes.values(delivery._asdict()))
