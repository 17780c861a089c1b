"""Jobs in memory: the events of one job with its watchers, and the cache of all open jobs.

The table is the source of truth. Progress is in memory until the next transition writes it.
"""

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from svd_core.errors import ServerStopping, TooManyWatchers
from svd_core.events import Event, Failed, JobEvent, Outcome, Progress, Stage
from svd_core.jobs.interface import Cancellation, Times
from svd_core.jobs.schema import Record, Row, State, append, is_finished
from svd_core.jobs.store import utc
from svd_core.messages import Message

MAX_WATCHERS = 3
"""Most watchers of one job. Each blocks a thread of the page while the job is open."""

FIRST_RETRY_S, MAX_RETRY_S = 1.0, 60.0
"""Exponential backoff after passing faults: the machine is short of memory, files or disk."""

MAX_FAULTS = 10
"""Most tries of one job. The delays add up to five minutes; each try may cost minutes."""


class Job:
    """One request on its way to a video, without its photo.

    `id`: 32 hexadecimal digits, unguessable. `params`: None for a rejected job. `row`: as in the
    table. `now`: clock for reported events. `on_watch` may return the events of the work itself,
    which the watcher then does.
    """

    def __init__(
        self,
        row: Row,
        now: Callable[[], float],
        on_cancel: Callable[["Job"], Cancellation],
        on_watch: Callable[["Job"], Iterator[Event] | None] = lambda _: None,
    ) -> None:
        self.id = row.id
        self.params = row.params
        self.options = row.options
        self.row = row
        self.cancel_event = threading.Event()
        self.retry_at = 0.0
        timeout_s = row.options.start_timeout_s
        self.start_by = None if timeout_s is None else min(row.submitted, now()) + timeout_s
        self._now = now
        self._on_cancel = on_cancel
        self._on_watch = on_watch
        self._faults = 0
        self._changed = threading.Condition()
        self._closed = False
        self._watchers: list[object] = []
        self._record = row.record
        self._written = self._number

    @property
    def times(self) -> Times:
        row = self.row
        started, ended = (None if at is None else utc(at) for at in (row.started, row.ended))
        return Times(utc(row.submitted), started, ended)

    @property
    def last(self) -> Event:
        """The newest event. A waiting job has `Progress(stage=QUEUED)` with `step` jobs ahead."""
        return self._record[-1].event

    @property
    def done(self) -> bool:
        """Whether `last` is Succeeded, Failed or Stopped. Then nothing changes any more."""
        return is_finished(self._record)

    def events_since(self, seen: int = 0) -> Sequence[JobEvent]:
        """The events after the one numbered `seen`, without replaced progress. Never blocks."""
        return [entry for entry in self._record if entry.number > seen]

    def events(self) -> Iterator[Event]:
        """`Progress*`, then exactly one of Succeeded, Failed, Stopped; blocks between them.

        May be called at any time, from any thread. Each call replays from the beginning, without
        progress that newer progress of its stage replaced. Dropping the iterator does not change
        the job, unless the queue is inline. Raises `ServerStopping` if the queue closes first, and
        `TooManyWatchers` if newer calls took the place of this one.
        """
        if (working := self._on_watch(self)) is not None:
            yield from working
            return
        watcher, seen = object(), 0
        with self._changed:
            self._watchers = [*self._watchers, watcher][-MAX_WATCHERS:]
            self._changed.notify_all()
        try:
            while True:
                for entry in self._next_events(watcher, seen):
                    yield entry.event
                    seen = entry.number
                if not isinstance(entry.event, Progress):
                    return
        finally:
            with self._changed:
                self._watchers = [other for other in self._watchers if other is not watcher]

    def cancel(self) -> Cancellation:
        """Cancel the job: at once if it waits, at its next progress if it runs. Idempotent."""
        return self._on_cancel(self)

    def report(self, event: Event) -> None:
        """Record `event` and wake all watchers. Events after the end are dropped."""
        with self._changed:
            self._append(event, utc(self._now()))

    def stop(self) -> None:
        """Make the work stop at its next progress, and report that once."""
        if not self.cancel_event.is_set() and isinstance(last := self.last, Progress):
            self.cancel_event.set()
            self.report(replace(last, note=Message("cancelling")))

    def retry_delay_s(self, outcome: Outcome) -> float | None:
        """Seconds until the next try of the job; None if `outcome` is its end."""
        passing = isinstance(outcome, Failed) and outcome.error.passing
        if not passing or self._faults + 1 >= MAX_FAULTS:
            return None
        self._faults += 1
        return min(FIRST_RETRY_S * 2.0 ** (self._faults - 1), MAX_RETRY_S)

    def snapshot(self) -> Record:
        """The event log, to be written to the table."""
        with self._changed:
            self._written = self._number
            return self._record

    def update(self, row: Row) -> None:
        """Apply a change of the table."""
        with self._changed:
            self.row = row
            for entry in row.record:
                if entry.number > self._written:
                    self._append(entry.event, entry.at, entry.number)
            self._written = max(self._written, row.record[-1].number)

    def close(self) -> None:
        """Release all watchers, since no more events will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next_events(self, watcher: object, seen: int) -> Sequence[JobEvent]:
        """Wait for the events after `seen`. Raises `TooManyWatchers`, `ServerStopping`."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self._number > seen or watcher not in self._watchers
            )
            fresh = self.events_since(seen)
            if not fresh and watcher not in self._watchers:
                raise TooManyWatchers("too_many_watchers")
            if not fresh:
                raise ServerStopping("server_stopping_job_kept")
            return fresh

    @property
    def _number(self) -> int:
        return self._record[-1].number

    def _append(self, event: Event, at: datetime, number: int = 0) -> None:
        self._record = append(self._record, event, at, number)
        self._changed.notify_all()


class OpenJobs:
    """Cache of open jobs with their positions in line. Thread-safe.

    `in_turn`: whether one job waits for another.
    """

    def __init__(self, make_job: Callable[[Row], Job], in_turn: bool = True) -> None:
        self._make_job = make_job
        self._in_turn = in_turn
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._line: list[Job] = []

    def apply(self, row: Row) -> Job:
        """Insert, update or remove the job of `row`. Returns it."""
        with self._lock:
            job = self._jobs.get(row.id)
            before = None if job is None else job.row.state
            if job is None:
                job = self._make_job(row)
            else:
                job.update(row)
            if row.state is not before:
                self._move(job, before)
            return job

    def find(self, job_id: str) -> Job | None:
        with self._lock:
            return self._jobs.get(job_id)

    def line(self) -> list[Job]:
        """The waiting jobs in their order."""
        with self._lock:
            return self._line.copy()

    def running(self) -> list[Job]:
        with self._lock:
            return [job for job in self._jobs.values() if job.row.state is State.RUNNING]

    def count(self, owner: str | None = None) -> int:
        """Count the limited jobs, of `owner` if given: the waiting ones, or all open ones of an
        inline queue."""
        with self._lock:
            jobs = self._line if self._in_turn else self._jobs.values()
            return sum(owner in (None, job.options.owner) for job in jobs)

    def close(self) -> None:
        """Release the watchers of all jobs."""
        with self._lock:
            for job in self._jobs.values():
                job.close()

    def _move(self, job: Job, before: State | None) -> None:
        """Move a job to where its state belongs, and report changed positions."""
        state = job.row.state
        self._jobs[job.id] = job
        if state is State.ENDED:
            del self._jobs[job.id]
        place = bisect_left(self._line, _sort_key(job), key=_sort_key)
        if state is State.WAITING:
            self._line.insert(place, job)
        elif before is State.WAITING:
            del self._line[place]
        if State.RUNNING in (before, state):
            place = 0
        if self._in_turn:
            for ahead, waiting in enumerate(self._line[place:], self._running() + place):
                progress = Progress(stage=Stage.QUEUED, step=ahead)
                if waiting.last != progress:
                    waiting.report(progress)

    def _running(self) -> int:
        return len(self._jobs) - len(self._line)


def _sort_key(job: Job) -> tuple[int, int]:
    return job.row.rank, job.row.number
