"""Queue that drives executors, each from its own thread, and prefetch of remote photos.

Photos are fetched while their jobs wait, so that a slow host delays its own job only.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress

from svd_core.errors import GenerationFailed, SvdError
from svd_core.events import Failed, Progress, Stopped
from svd_core.jobs.config import QueueContext
from svd_core.jobs.database import retry_until_written
from svd_core.jobs.executor import Executor, ExecutorLost
from svd_core.jobs.interface import Outcome
from svd_core.jobs.job import JobHandle
from svd_core.jobs.queue import TableQueue
from svd_core.jobs.retry import WAITING_NOTE, Backoff, error_to_outcome
from svd_core.jobs.schema import Row

MAX_CONCURRENT = 4
"""Concurrent downloads. Each may hold 20 MB; four slow hosts delay those behind them."""

CLOSE_TIMEOUT_S = 1.0
"""Seconds that `close` waits for pending writes to the table."""

RETRY_S = 1.0
"""Seconds until the next claim after the table could not be reached."""

NICE_INCREMENT = 5
"""Added to the nice value of the worker threads: a higher one means lower priority."""

log = logging.getLogger(__name__)


class WorkerQueue(TableQueue):
    """Job queue that drives `executors`, each from a thread of its own.

    Jobs whose photos are still being fetched let others go first.
    """

    def __init__(self, executors: Sequence[Executor], context: QueueContext) -> None:
        self._executors = executors
        self._backoff = Backoff()
        self._prefetcher = PhotoPrefetcher(
            context, lambda: self._open_jobs.without_image(), self._on_photo
        )
        self._changed = threading.Condition()
        # Daemons, so that work which never reports progress cannot keep the process alive.
        self._threads = [
            threading.Thread(
                target=self._run_loop,
                args=(executor,),
                name=f"svd-worker-{index}" if index else "svd-worker",
                daemon=True,
            )
            for index, executor in enumerate(executors)
        ]
        super().__init__(context)
        for thread in self._threads:
            thread.start()

    def _on_waiting(self) -> None:
        self._prefetcher.start_next()
        self._notify()

    def _on_photo(self, row: Row) -> None:
        self._open_jobs.upsert(row)
        self._notify()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _stop_work(self, timeout_s: float) -> None:
        self._notify()
        self._prefetcher.close()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for executor in self._executors:
            executor.close()

    def _is_needed(self) -> bool:
        """Whether a job waits that could run now."""
        return not self._claims.closing.is_set() and self._open_jobs.has_ready()

    def _run_loop(self, executor: Executor) -> None:
        _lower_priority()
        stop = self._claims.closing
        while not stop.is_set():
            with self._changed:
                self._changed.wait_for(lambda: stop.is_set() or self._is_needed())
            try:
                self._run_next(executor)
            except Exception as error:  # noqa: BLE001 - a server without a worker is useless
                expected = isinstance(error, SvdError)
                log.warning("Worker loop failed, retrying: %s", error, exc_info=not expected)
                stop.wait(RETRY_S)

    def _run_next(self, executor: Executor) -> None:
        """Run the first job in line, if the executor gets ready while one waits."""
        try:
            if not executor.prepare(self._is_needed):
                return
        except SvdError as error:
            if (claimed := self._claims.claim()) is not None:
                self._claims.finish(claimed[0], Failed(error))
            return
        if (claimed := self._claims.claim()) is None:
            return
        job, row = claimed
        try:
            self._finish(job, self._attempt(executor, job, row))
        except ExecutorLost as lost:
            log.warning("The worker of job %s is gone: %s", job.id, lost.reason)
            self._claims.requeue_lost(job, counted=lost.counted)
            if not lost.counted:  # the next worker may be refused at once, too
                self._claims.closing.wait(RETRY_S)

    def _finish(self, job: JobHandle, outcome: Outcome) -> None:
        """End a job, or requeue it and wait if its fault passes."""
        delay_s = self._backoff.delay_s(job.id, outcome)
        if delay_s is None:
            self._claims.finish(job, outcome)
        else:
            self._claims.requeue(job, WAITING_NOTE)
            self._claims.closing.wait(delay_s)

    def _attempt(self, executor: Executor, job: JobHandle, row: Row) -> Outcome:
        try:
            request = self._claims.request(row, job.report)
            with closing(executor.run(job.id, request)) as events:
                for event in events:
                    if not isinstance(event, Progress):
                        return event
                    if self._claims.is_cancelled(job):
                        return Stopped()
                    job.report(event)
        except ExecutorLost:
            raise
        except Exception as error:  # noqa: BLE001 - after any failure the next job must still run
            return error_to_outcome(job.id, error)
        return Failed(GenerationFailed("The model gave no video; please try again."))


def _lower_priority() -> None:
    """Lower the priority of this thread and of those it starts, so that requests are served first.

    Only Linux has priorities of threads.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            nice = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, nice + NICE_INCREMENT)


class PhotoPrefetcher:
    """Prefetches photos in its own threads. Thread-safe.

    A job keeps its place in line meanwhile, and a photo is on disk before the table refers to it.
    So a process that dies loses nothing: the photo is fetched again. `waiting` returns the jobs
    without a photo, in the order of the line. `on_change` is called with the row of a job that got
    its photo, or failed.
    """

    def __init__(
        self,
        context: QueueContext,
        waiting: Callable[[], Iterable[Row]],
        on_change: Callable[[Row], None],
    ) -> None:
        self._table = context.table
        self._photos = context.job_photos
        self._fetch = context.fetch
        self._waiting = waiting
        self._on_change = on_change
        self._backoff = Backoff()
        self._lock = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        self._closing = threading.Event()

    def start_next(self) -> None:
        """Start downloads of the first waiting jobs, up to `MAX_CONCURRENT` at a time."""
        with self._lock:  # around `waiting`, so that no finished download starts again
            for row in self._waiting():
                if len(self._threads) >= MAX_CONCURRENT or self._closing.is_set():
                    return
                if row.id not in self._threads:
                    thread = threading.Thread(
                        target=self._run, args=(row,), name="svd-fetch", daemon=True
                    )
                    self._threads[row.id] = thread
                    thread.start()

    def close(self) -> None:
        """Start no download and write nothing more. Downloads under way do not delay the end: their
        photos are fetched again after a restart."""
        self._closing.set()
        with self._lock:
            threads = list(self._threads.values())
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self, row: Row) -> None:
        try:
            change = self._fetch_photo(row)
            after = None if self._closing.is_set() else retry_until_written(change, self._closing)
            if after is not None:  # else the job does not wait any more
                self._on_change(after)
        finally:
            with self._lock:
                del self._threads[row.id]
        self.start_next()

    def _fetch_photo(self, row: Row) -> Callable[[], Row | None]:
        """Download one photo. Returns the change of the table."""
        assert row.image_url is not None
        try:
            name, ensure = self._photos.put(self._fetch(row.image_url))
        except Exception as error:  # noqa: BLE001 - any error ends this job only
            outcome = error_to_outcome(row.id, error)
            with self._lock:
                delay_s = self._backoff.delay_s(row.id, outcome)
            if delay_s is not None:
                self._closing.wait(delay_s)
                return lambda: None
            return lambda: self._table.end_waiting(row.id, outcome)
        return lambda: self._table.set_image(row.id, name, ensure)
