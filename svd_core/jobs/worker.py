"""The queue whose work is done in this process: one thread makes the videos in turn."""

import logging
import os
import sys
import threading
from contextlib import suppress

from svd_core.errors import Cancelled, SvdError
from svd_core.events import Progress, Succeeded
from svd_core.jobs.backoff import WAITS, Backoff
from svd_core.jobs.callbacks import Work, ending_of
from svd_core.jobs.config import Premises
from svd_core.jobs.job import Ticket
from svd_core.jobs.prefetch import Ahead
from svd_core.jobs.queue import TableQueue
from svd_core.jobs.schema import Row
from svd_core.jobs.transitions import Ending

RETRY_S = 1.0
"""Seconds until the line is looked at again after the table could not be reached."""

NICER = 5
"""By how much the work is nicer than the rest of the process, in the system's own measure."""

log = logging.getLogger(__name__)


class WorkerQueue(TableQueue):
    """Implements `JobQueue`. Its thread does `work` for whoever submitted to the same table; jobs
    whose photos are still being fetched let others go first."""

    def __init__(self, work: Work, premises: Premises) -> None:
        self._make = work
        self._backoff = Backoff()
        self._ahead = Ahead(premises, lambda: self._board.unprovided(), self._provided)
        self._called = threading.Event()
        self._called.set()  # jobs may wait since before the start
        # A daemon, so that work which never looks up cannot keep the process alive.
        self._thread = threading.Thread(target=self._work, name="svd-worker", daemon=True)
        super().__init__(premises)
        self._thread.start()

    def _look_for_work(self) -> None:
        self._ahead.look()
        self._called.set()

    def _provided(self, row: Row) -> None:
        self._board.show(row)
        self._called.set()

    def _stop_work(self, patience_s: float) -> None:
        self._called.set()
        self._ahead.close()
        self._thread.join(patience_s)

    def _work(self) -> None:
        _give_way()
        while not self._hands.closing.is_set():
            self._called.wait()
            self._called.clear()
            try:
                while (turn := self._hands.take()) is not None:
                    ticket, row = turn
                    self._finish(ticket, self._run(ticket, row))
            except Exception as error:  # noqa: BLE001 - a server without a worker helps nobody
                known = isinstance(error, SvdError)
                log.warning("The line is looked at again. %s", error, exc_info=not known)
                self._hands.closing.wait(RETRY_S)
                self._called.set()

    def _finish(self, ticket: Ticket, ending: Ending) -> None:
        """End a job, or put it back in line and wait if what it met passes."""
        delay_s = self._backoff.delay_s(ticket.id, ending)
        if delay_s is None:
            self._hands.end(ticket, ending)
        else:
            self._hands.put_back(ticket, WAITS)
            self._hands.closing.wait(delay_s)

    def _run(self, ticket: Ticket, row: Row) -> Ending:
        def on_progress(progress: Progress) -> None:
            if self._hands.must_stop(ticket):
                raise Cancelled
            ticket.report(progress)

        try:
            request = self._hands.request(row, on_progress)
            return Succeeded(self._make(ticket.id, request, on_progress))
        except Exception as error:  # noqa: BLE001 - after any failure the next job must still run
            return ending_of(ticket.id, error)


def _give_way() -> None:
    """Let threads that answer callers go before this one and those it starts. Only Linux knows of
    priorities of threads."""
    if sys.platform == "linux":
        own = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + NICER)
