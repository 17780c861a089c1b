"""Queue that drives executors, each from its own thread, and prefetch of remote photos.

Photos are fetched while their jobs wait, so a slow host delays only its own job.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Self

from svd_core.database import retry_until_written
from svd_core.errors import SvdError
from svd_core.event_stream import Work, error_to_outcome, run_as_stream
from svd_core.events import Event, Failed, Outcome, Progress, Stopped
from svd_core.jobs.interface import Executor, ExecutorLost
from svd_core.jobs.job import Job
from svd_core.jobs.queue import JobQueue, QueueContext
from svd_core.jobs.schema import Row, State
from svd_core.jobs.store import Transition, finish, photo_name, requeue
from svd_core.messages import Message
from svd_core.params import VideoRequest

MAX_CONCURRENT = 4
"""Most concurrent downloads. Each may hold 20 MB; four slow hosts delay the next ones."""

CLOSE_TIMEOUT_S = 1.0
"""Seconds that `close` waits for pending writes to the table."""

RETRY_S = 1.0
"""Seconds until the next claim after a fault."""

NICE_INCREMENT = 5
"""Added to the nice value of the worker threads, which lowers their priority."""

log = logging.getLogger(__name__)


class LocalExecutor:
    """Runs `work` in this process."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def prepare(self, is_needed: Callable[[], bool]) -> bool:  # noqa: ARG002 - the protocol's
        return True

    def run(self, job_id: str, request: VideoRequest) -> Generator[Event]:
        return run_as_stream(self._work, job_id, request)

    def close(self) -> None:
        pass


class WorkerQueue(JobQueue):
    """Job queue that drives `executors`, each from its own thread.

    Jobs whose photos are still being fetched let others go first.
    """

    def __init__(self, executors: Sequence[Executor], context: QueueContext) -> None:
        super().__init__(context)
        self._executors = executors
        self._prefetcher = PhotoPrefetcher(context, self._open_jobs.line, self._update)
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    def start(self) -> Self:
        super().start()
        for index, executor in enumerate(self._executors):
            name = f"svd-worker-{index}" if index else "svd-worker"
            # A daemon: work that never reports progress must not keep the process alive.
            thread = threading.Thread(
                target=self._run_loop, args=(executor,), name=name, daemon=True
            )
            self._threads.append(thread)
            thread.start()
        return self

    def _on_waiting(self) -> None:
        self._prefetcher.start_next()
        self._notify()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _stop_work(self, timeout_s: float) -> None:
        self._notify()
        self._prefetcher.close()
        _join(self._threads, timeout_s)
        for executor in self._executors:
            executor.close()

    def _first_ready(self) -> Job | None:
        """The first job in line that can run now."""
        now = time.monotonic()
        ready = (
            job
            for job in self._open_jobs.line()
            if job.row.image is not None and now >= job.retry_at and not self._is_late(job)
        )
        return None if self._closing.is_set() else next(ready, None)

    def _is_needed(self) -> bool:
        return self._first_ready() is not None

    def _run_loop(self, executor: Executor) -> None:
        _lower_priority()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing.is_set() or self._is_needed())
            if self._closing.is_set():
                return
            try:
                self._run_first(executor)
            except Exception as error:  # noqa: BLE001 - a server without a worker is useless
                expected = isinstance(error, SvdError)
                log.warning("Worker loop failed, retrying: %s", error, exc_info=not expected)
                self._closing.wait(RETRY_S)

    def _run_first(self, executor: Executor) -> None:
        """Run the first job in line, if the executor gets ready while one waits."""
        try:
            if not executor.prepare(self._is_needed):
                return
        except SvdError as error:
            if (job := self._first_ready()) is not None:
                self._end_waiting(job, Failed(error))
            return
        job = self._first_ready()
        if job is None or not self._claim(job):
            return
        try:
            for event in self._attempt(executor.run, job):
                outcome = event
        except ExecutorLost as lost:
            log.warning("Lost the worker of job %s: %s", job.id, lost.reason)
            self._requeue_lost(job, lost)
        else:
            assert not isinstance(outcome, Progress)
            self._finish_or_retry(job, outcome)

    def _requeue_lost(self, job: Job, lost: ExecutorLost) -> None:
        if self._closing.is_set():
            self._finish(job, Stopped())
        elif lost.counted:
            self._end_attempt(job, requeue)
        else:
            self._release(job, Message("machine_taken_away"))
            self._closing.wait(RETRY_S)  # the next worker may be refused as well

    def _finish_or_retry(self, job: Job, outcome: Outcome) -> None:
        """End a job, or release it and wait if its fault passes."""
        delay_s = job.retry_delay_s(outcome)
        if delay_s is None:
            self._finish(job, outcome)
        else:
            job.retry_at = time.monotonic() + delay_s
            self._release(job, Message("waiting_for_resources"))
            self._closing.wait(delay_s)


class PhotoPrefetcher:
    """Prefetches photos in its own threads. Thread-safe.

    A job keeps its place in line meanwhile. After a crash the photo is fetched again. `line`
    returns the waiting jobs in order; `update` changes one in the table.
    """

    def __init__(
        self,
        context: QueueContext,
        line: Callable[[], Iterable[Job]],
        update: Callable[[Job, State, Transition, bytes], object],
    ) -> None:
        self._fetch = context.fetch
        self._line = line
        self._update = update
        self._lock = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        self._closing = threading.Event()

    def start_next(self) -> None:
        """Start downloads for the first jobs without a photo, up to `MAX_CONCURRENT` at a time."""
        with self._lock:  # around `line`, or a finished download could start again
            for job in self._line():
                if len(self._threads) >= MAX_CONCURRENT or self._closing.is_set():
                    return
                if job.row.image is None and job.id not in self._threads:
                    thread = threading.Thread(
                        target=self._run, args=(job,), name="svd-fetch", daemon=True
                    )
                    self._threads[job.id] = thread
                    thread.start()

    def close(self) -> None:
        """Start and write nothing more. Photos of running downloads are fetched after a restart."""
        self._closing.set()
        with self._lock:
            threads = list(self._threads.values())
        _join(threads, CLOSE_TIMEOUT_S)

    def _run(self, job: Job) -> None:
        try:
            self._fetch_photo(job)
        finally:
            with self._lock:
                del self._threads[job.id]
        self.start_next()

    def _fetch_photo(self, job: Job) -> None:
        """Download one photo and write it to the table, or the end of its job."""
        assert job.row.image_url is not None
        photo, outcome = b"", None
        try:
            photo = self._fetch(job.row.image_url)
        except Exception as error:  # noqa: BLE001 - any error ends this job only
            outcome = error_to_outcome(job.id, error)
            if (delay_s := job.retry_delay_s(outcome)) is not None:
                self._closing.wait(delay_s)
                return
        name = photo_name(photo)

        def change(row: Row, now: float) -> Row:
            return finish(row, now, outcome) if outcome else replace(row, image=name)

        if not self._closing.is_set():
            retry_until_written(
                lambda: self._update(job, State.WAITING, change, photo), self._closing
            )


def _join(threads: Iterable[threading.Thread], timeout_s: float) -> None:
    """Wait for `threads`, at most `timeout_s` for all together."""
    deadline = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _lower_priority() -> None:
    """Lower the priority of this thread and those it starts below that of requests (Linux only)."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            nice = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, nice + NICE_INCREMENT)
