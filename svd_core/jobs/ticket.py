"""A job as the queues of this process keep it: its record of events and its wish to stop."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

from svd_core.errors import Cancelled, GenerationFailed, SvdError
from svd_core.events import Event, Failed, Progress, Stage, Stopped
from svd_core.jobs.protocol import USUAL, Cancellation, JobOptions, Stamped, Times
from svd_core.params import VideoParams

STOPPING = "Stopping; the step that is under way still runs to its end."

log = logging.getLogger(__name__)


class Ticket:
    """Implements `Job`. It does not hold the photo, so that finished jobs cost next to nothing.

    `on_cancel` is called once, after `stopping` was set.
    """

    def __init__(
        self,
        params: VideoParams | None,
        on_cancel: Callable[["Ticket"], None],
        options: JobOptions = USUAL,
    ) -> None:
        self.id = uuid4().hex
        self.params = params
        self.options = options
        self.times = Times(datetime.now(UTC))
        self.stopping = threading.Event()
        self._on_cancel = on_cancel
        self._changed = threading.Condition()
        self._events: list[Stamped] = []
        self._count = 0
        self.report(Progress(stage=Stage.QUEUED))

    @property
    def last(self) -> Event:
        with self._changed:
            return self._events[-1].event

    @property
    def done(self) -> bool:
        return not isinstance(self.last, Progress)

    def report(self, event: Event) -> None:
        """Record `event` and wake whoever watches. Whatever comes after the end is dropped."""
        with self._changed:
            previous = self._events[-1].event if self._events else None
            if previous is not None and not isinstance(previous, Progress):
                return
            if _supersedes(event, previous):
                self._events.pop()
            self._count += 1
            now = datetime.now(UTC)
            if not isinstance(event, Progress):
                self.times = replace(self.times, ended=now)
            elif event.stage is not Stage.QUEUED and self.times.started is None:
                self.times = replace(self.times, started=now)
            self._events.append(Stamped(self._count, now, event))
            self._changed.notify_all()

    def news(self, seen: int = 0, timeout_s: float | None = 0.0) -> Sequence[Stamped]:
        with self._changed:
            self._changed.wait_for(lambda: self._count > seen, timeout_s)
            return [entry for entry in self._events if entry.number > seen]

    def events(self) -> Iterator[Event]:
        seen = 0
        while True:
            fresh = self.news(seen, timeout_s=None)
            seen = fresh[-1].number
            yield from (entry.event for entry in fresh)
            if not isinstance(fresh[-1].event, Progress):
                return

    def cancel(self) -> Cancellation:
        if self.done:
            return Cancellation.TOO_LATE
        if not self.stopping.is_set():
            self.stopping.set()
            self._on_cancel(self)
            if isinstance(last := self.last, Progress):
                self.report(replace(last, note=STOPPING))
        if self.done and self.times.started is None:
            return Cancellation.REMOVED
        return Cancellation.REQUESTED


def ending_of(job_id: str, error: Exception) -> Failed | Stopped:
    """How a job ends whose work raised `error`. What nobody foresaw is logged with its trace."""
    if isinstance(error, Cancelled):
        return Stopped()
    if isinstance(error, SvdError):
        return Failed(error)
    log.error("Job %s ended by an unforeseen error.", job_id, exc_info=error)
    return Failed(
        GenerationFailed(
            "Something unforeseen went wrong, so there is no video; please try again. "
            f"If it happens again, tell whoever runs this server the job number {job_id[:8]}."
        )
    )


def _supersedes(event: Event, previous: Event | None) -> bool:
    """Keeps a job's record short: of one stage only the newest sign of life is worth replaying."""
    return (
        isinstance(event, Progress)
        and isinstance(previous, Progress)
        and (event.stage, event.note) == (previous.stage, previous.note)
    )
