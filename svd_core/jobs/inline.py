"""Inline queue: the first watcher of a job runs it within its own request.

ZeroGPU lends its GPU to live requests only. Unlike in `WorkerQueue`, a job ends when its watcher
leaves.
"""

import time
from collections.abc import Iterator
from dataclasses import replace

from svd_core.event_stream import EventStream
from svd_core.events import Event, Outcome, Progress, Stage, Stopped
from svd_core.jobs.interface import DEFAULT_OPTIONS, JobOptions, RemoteRequest
from svd_core.jobs.job import Job
from svd_core.jobs.queue import JobQueue, QueueContext
from svd_core.messages import Message
from svd_core.params import VideoRequest

UNWATCHED_TIMEOUT_S = 600.0
"""Seconds that a job waits for its first watcher. It counts against the limit meanwhile."""

POLL_S = 0.2
"""Seconds between two checks whether a waiting job must stop."""


class InlineQueue(JobQueue):
    """Job queue whose watchers do the work. `max_queue` limits all open jobs."""

    in_turn = False

    def __init__(self, run: EventStream, context: QueueContext) -> None:
        self._run = run
        super().__init__(context)

    def submit(
        self, request: VideoRequest | RemoteRequest, options: JobOptions = DEFAULT_OPTIONS
    ) -> Job:
        timeout = min(options.start_timeout_s or UNWATCHED_TIMEOUT_S, UNWATCHED_TIMEOUT_S)
        return super().submit(request, replace(options, start_timeout_s=timeout))

    def _on_watch(self, job: Job) -> Iterator[Event] | None:
        return self._work(job) if not job.done and self._claim(job) else None

    def _work(self, job: Job) -> Iterator[Event]:
        outcome: Outcome = Stopped()  # if this iterator is dropped
        try:
            yield job.last
            while True:
                for event in self._attempt(self._run, job):
                    if isinstance(event, Progress):
                        yield event
                    else:
                        made = event
                delay_s = job.retry_delay_s(made)
                if delay_s is None:
                    outcome = made
                    break
                job.report(Progress(stage=Stage.QUEUED, note=Message("waiting_for_resources")))
                yield job.last
                if self._is_cancelled_within(job, delay_s):
                    break
        finally:
            self._finish(job, outcome)
        yield job.last

    def _is_cancelled_within(self, job: Job, seconds: float) -> bool:
        """Wait for `seconds`, or until the job must stop. Returns whether it must."""
        until = time.monotonic() + seconds
        while not job.cancel_event.wait(POLL_S) and not self._closing.is_set():
            if time.monotonic() > until:
                return False
        return True
