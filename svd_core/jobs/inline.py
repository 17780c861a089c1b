"""Inline queue: the first watcher of a job runs it within its own request.

On ZeroGPU the GPU is lent to a live request, so the work has to happen inside it. Unlike in
`WorkerQueue`, a job ends when its watcher goes away.
"""

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace

from svd_core.errors import Cancelled, GenerationFailed
from svd_core.events import Event, Failed, Progress, Stage, Stopped, Succeeded, Video
from svd_core.jobs.config import QueueContext
from svd_core.jobs.interface import (
    DEFAULT_OPTIONS,
    InlineWork,
    JobOptions,
    Outcome,
    RemoteRequest,
)
from svd_core.jobs.job import JobHandle
from svd_core.jobs.queue import TableQueue
from svd_core.jobs.retry import WAITING_NOTE, Backoff, error_to_outcome
from svd_core.jobs.schema import Row
from svd_core.params import VideoRequest

UNWATCHED_TIMEOUT_S = 600.0
"""Seconds a job may wait for its first watcher; until then it counts against the limit."""

POLL_S = 0.2
"""Seconds between two checks of a waiting job whether it must stop."""


class InlineQueue(TableQueue):
    """Job queue that works in watchers. `max_queue` limits the open jobs, running ones included."""

    in_turn = False

    def __init__(self, work: InlineWork, context: QueueContext) -> None:
        self._make = work
        super().__init__(context)

    def submit(
        self, request: VideoRequest | RemoteRequest, options: JobOptions = DEFAULT_OPTIONS
    ) -> JobHandle:
        timeout = min(options.start_timeout_s or UNWATCHED_TIMEOUT_S, UNWATCHED_TIMEOUT_S)
        return super().submit(request, replace(options, start_timeout_s=timeout))

    def _on_watch(self, job: JobHandle) -> Iterator[Event] | None:
        if job.done or job.times.started is not None:
            return None
        turn = self._claims.claim(job.id)
        return None if turn is None else self._run(*turn)

    def _run(self, job: JobHandle, row: Row) -> Iterator[Event]:
        outcome: Outcome = Stopped()  # if this iterator is dropped
        backoff = Backoff()
        try:
            yield job.last
            while True:
                made = yield from self._attempt(job, row)
                delay_s = backoff.delay_s(job.id, made)
                if delay_s is None:
                    outcome = made
                    break
                job.report(Progress(stage=Stage.QUEUED, note=WAITING_NOTE))
                yield job.last
                if self._is_cancelled_within(job, delay_s):
                    break
        finally:
            self._claims.finish(job, outcome)
        yield job.last

    def _is_cancelled_within(self, job: JobHandle, seconds: float) -> bool:
        """Wait so many seconds, or until the job must stop. Returns whether it must."""
        until = time.monotonic() + seconds
        while not self._claims.is_cancelled(job) and (left := until - time.monotonic()) > 0:
            self._claims.closing.wait(min(left, POLL_S))
        return self._claims.is_cancelled(job)

    def _attempt(self, job: JobHandle, row: Row) -> Generator[Event, None, Outcome]:
        try:
            with closing(self._make(job.id, self._claims.request(row, job.report))) as work:
                for made in work:
                    if self._claims.is_cancelled(job):
                        return Stopped()
                    if isinstance(made, Video):
                        return Succeeded(made)
                    job.report(made)
                    yield made
        except Exception as error:  # noqa: BLE001 - a job ends by an event, never by an exception
            return error_to_outcome(job.id, error)
        return Failed(GenerationFailed("The model gave no video; please try again."))


def raise_errors(events: Generator[Event]) -> Generator[Progress | Video]:
    """Turn `events` into what `InlineQueue` takes: progress, then the video. Raises the error."""
    with closing(events):
        for event in events:
            match event:
                case Progress():
                    yield event
                case Succeeded(video):
                    yield video
                case Failed(error):
                    raise error
                case Stopped():
                    raise Cancelled
