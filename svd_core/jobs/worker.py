"""Queue with one worker thread in this process."""

import logging
import os
import sys
import threading
from contextlib import suppress

from svd_core.errors import Cancelled, SvdError
from svd_core.events import Progress, Succeeded
from svd_core.jobs.config import QueueContext
from svd_core.jobs.interface import Outcome, Work
from svd_core.jobs.job import JobHandle
from svd_core.jobs.prefetch import PhotoPrefetcher
from svd_core.jobs.queue import TableQueue
from svd_core.jobs.retry import WAITING_NOTE, Backoff, error_to_outcome
from svd_core.jobs.schema import Row

RETRY_S = 1.0
"""Seconds until the line is looked at again after the table could not be reached."""

NICE_INCREMENT = 5
"""Added to the nice value of the worker thread; higher means lower priority."""

log = logging.getLogger(__name__)


class WorkerQueue(TableQueue):
    """Implements `JobQueue`. Its thread does `work` for whoever submitted to the same table; jobs
    whose photos are still being fetched let others go first."""

    def __init__(self, work: Work, context: QueueContext) -> None:
        self._make = work
        self._backoff = Backoff()
        self._prefetcher = PhotoPrefetcher(
            context, lambda: self._open_jobs.without_image(), self._on_photo
        )
        self._wake = threading.Event()
        self._wake.set()  # jobs may wait since before the start
        # A daemon, so that work which never looks up cannot keep the process alive.
        self._thread = threading.Thread(target=self._run_loop, name="svd-worker", daemon=True)
        super().__init__(context)
        self._thread.start()

    def _on_waiting(self) -> None:
        self._prefetcher.start_next()
        self._wake.set()

    def _on_photo(self, row: Row) -> None:
        self._open_jobs.upsert(row)
        self._wake.set()

    def _stop_work(self, patience_s: float) -> None:
        self._wake.set()
        self._prefetcher.close()
        self._thread.join(patience_s)

    def _run_loop(self) -> None:
        _lower_priority()
        while not self._claims.closing.is_set():
            self._wake.wait()
            self._wake.clear()
            try:
                while (turn := self._claims.claim()) is not None:
                    job, row = turn
                    self._finish(job, self._attempt(job, row))
            except Exception as error:  # noqa: BLE001 - a server without a worker helps nobody
                known = isinstance(error, SvdError)
                log.warning("Worker loop failed, retrying: %s", error, exc_info=not known)
                self._claims.closing.wait(RETRY_S)
                self._wake.set()

    def _finish(self, job: JobHandle, outcome: Outcome) -> None:
        """End a job, or put it back in line and wait if what it met passes."""
        delay_s = self._backoff.delay_s(job.id, outcome)
        if delay_s is None:
            self._claims.finish(job, outcome)
        else:
            self._claims.requeue(job, WAITING_NOTE)
            self._claims.closing.wait(delay_s)

    def _attempt(self, job: JobHandle, row: Row) -> Outcome:
        def on_progress(progress: Progress) -> None:
            if self._claims.is_cancelled(job):
                raise Cancelled
            job.report(progress)

        try:
            request = self._claims.request(row, on_progress)
            return Succeeded(self._make(job.id, request, on_progress))
        except Exception as error:  # noqa: BLE001 - after any failure the next job must still run
            return error_to_outcome(job.id, error)


def _lower_priority() -> None:
    """Lower the priority of this thread and of those it starts, so that requests are answered
    first. Only Linux has priorities for threads."""
    if sys.platform == "linux":
        own = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(
                os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + NICE_INCREMENT
            )
