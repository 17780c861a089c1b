"""The queue without a worker: whoever watches a job first does its work, in the watcher's context.

On ZeroGPU the GPU is lent to a live request, so the work has to happen inside it. If the watcher
goes away the job ends, which is the one difference from `WorkerQueue`.
"""

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace

from svd_core.errors import GenerationFailed
from svd_core.events import Event, Failed, Progress, Stage, Stopped, Succeeded, Video
from svd_core.jobs.backoff import WAITS, Backoff
from svd_core.jobs.callbacks import InlineWork, ending_of
from svd_core.jobs.config import Premises
from svd_core.jobs.interface import USUAL, JobOptions, RemoteRequest
from svd_core.jobs.job import Ticket
from svd_core.jobs.queue import TableQueue
from svd_core.jobs.schema import Row
from svd_core.jobs.transitions import Ending
from svd_core.params import VideoRequest

UNWATCHED_S = 600.0
"""Seconds a job may wait for somebody to watch it; until then it takes the place of another."""


LOOK_S = 0.2
"""Seconds within which a job that waits notices that it must stop."""


class InlineQueue(TableQueue):
    """Implements `JobQueue`. Its `max_queue` are the jobs that may be open at once."""

    in_turn = False

    def __init__(self, work: InlineWork, premises: Premises) -> None:
        self._make = work
        super().__init__(premises)

    def submit(self, request: VideoRequest | RemoteRequest, options: JobOptions = USUAL) -> Ticket:
        timeout = min(options.start_timeout_s or UNWATCHED_S, UNWATCHED_S)
        return super().submit(request, replace(options, start_timeout_s=timeout))

    def _watched(self, ticket: Ticket) -> Iterator[Event] | None:
        if ticket.done or ticket.times.started is not None:
            return None
        turn = self._hands.take(ticket.id)
        return None if turn is None else self._run(*turn)

    def _run(self, ticket: Ticket, row: Row) -> Iterator[Event]:
        ending: Ending = Stopped()  # what holds if this iterator is dropped
        backoff = Backoff()
        try:
            yield ticket.last
            while True:
                made = yield from self._attempt(ticket, row)
                delay_s = backoff.delay_s(ticket.id, made)
                if delay_s is None:
                    ending = made
                    break
                ticket.report(Progress(stage=Stage.QUEUED, note=WAITS))
                yield ticket.last
                if self._stopped_within(ticket, delay_s):
                    break
        finally:
            self._hands.end(ticket, ending)
        yield ticket.last

    def _stopped_within(self, ticket: Ticket, seconds: float) -> bool:
        """Wait so long, or until the job must stop. Returns whether it must."""
        until = time.monotonic() + seconds
        while not self._hands.must_stop(ticket) and (left := until - time.monotonic()) > 0:
            self._hands.closing.wait(min(left, LOOK_S))
        return self._hands.must_stop(ticket)

    def _attempt(self, ticket: Ticket, row: Row) -> Generator[Event, None, Ending]:
        try:
            with closing(self._make(ticket.id, self._hands.request(row, ticket.report))) as work:
                for made in work:
                    if self._hands.must_stop(ticket):
                        return Stopped()
                    if isinstance(made, Video):
                        return Succeeded(made)
                    ticket.report(made)
                    yield made
        except Exception as error:  # noqa: BLE001 - a job ends by an event, never by an exception
            return ending_of(ticket.id, error)
        return Failed(GenerationFailed("The model gave no video; please try again."))
