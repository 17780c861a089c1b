"""Job handle: the events of a job as far as this process knows them, and its watchers.

Cache of the open jobs of the table, with their positions in line.
"""

import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime

from svd_core.errors import ServerStopping, TooManyWatchers
from svd_core.events import Event, Progress, Stage
from svd_core.jobs.interface import Cancellation, JobEvent, Times
from svd_core.jobs.schema import Record, Row, State, append, is_finished
from svd_core.jobs.store import utc

MAX_WATCHERS = 3
"""Watchers of one job. Each holds a thread of the page, for as long as the job waits and runs."""

CANCELLING_NOTE = "Stopping; the step that is under way still runs to its end."


class JobHandle:
    """Implements `Job`. It does not hold the photo, so that it costs next to nothing.

    `now`: the time of what is reported here. `on_cancel` is called with the id. `on_watch` may
    return the events of the work itself, if whoever watches the job is the one to do it.
    """

    def __init__(
        self,
        row: Row,
        now: Callable[[], float],
        on_cancel: Callable[[str], Cancellation],
        on_watch: Callable[["JobHandle"], Iterator[Event] | None] = lambda _: None,
    ) -> None:
        self.id = row.id
        self.params = row.params
        self.options = row.options
        self.cancel_event = threading.Event()
        self._now = now
        self._on_cancel = on_cancel
        self._on_watch = on_watch
        self._changed = threading.Condition()
        self._closed = False
        self._watchers: list[object] = []
        self._record = row.record
        self._merged = row.record[-1].number
        self._version = row.version
        self._times = _times(row)

    @property
    def times(self) -> Times:
        return self._times

    @property
    def last(self) -> Event:
        return self._record[-1].event

    @property
    def done(self) -> bool:
        return is_finished(self._record)

    def events_since(self, seen: int = 0, timeout_s: float | None = 0.0) -> Sequence[JobEvent]:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._number > seen, timeout_s)
            return [entry for entry in self._record if entry.number > seen]

    def events(self) -> Iterator[Event]:
        if (working := self._on_watch(self)) is not None:
            yield from working
            return
        with self._watcher() as watcher:
            seen = 0
            while True:
                fresh = self._next_events(watcher, seen)
                seen = fresh[-1].number
                yield from (entry.event for entry in fresh)
                if not isinstance(fresh[-1].event, Progress):
                    return

    def cancel(self) -> Cancellation:
        return self._on_cancel(self.id)

    def report(self, event: Event) -> None:
        """Record `event` and wake whoever watches. Whatever comes after the end is dropped."""
        with self._changed:
            self._append(event, utc(self._now()))

    def stop(self) -> None:
        """Have the work end at its next progress, and say so once."""
        with self._changed:
            if not self.cancel_event.is_set() and isinstance(last := self.last, Progress):
                self.cancel_event.set()
                self._append(replace(last, note=CANCELLING_NOTE), utc(self._now()))

    def snapshot(self) -> Record:
        """The record as it is to be written to the table by whoever does the work."""
        with self._changed:
            self._merged = self._number
            return self._record

    def merge(self, row: Row) -> bool:
        """Take over what the table knows better; False if `row` is older than what was known."""
        with self._changed:
            if row.version < self._version:
                return False
            self._version = row.version
            self._times = _times(row)
            for entry in row.record:
                if entry.number > self._merged or not isinstance(entry.event, Progress):
                    self._append(entry.event, entry.at, entry.number)
            self._merged = max(self._merged, row.record[-1].number)
            return True

    def close(self) -> None:
        """Let those who watch go: nothing will come any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @contextmanager
    def _watcher(self) -> Iterator[object]:
        """A new watcher; the oldest one beyond `MAX_WATCHERS` has to go."""
        watcher = object()
        with self._changed:
            self._watchers.append(watcher)
            del self._watchers[:-MAX_WATCHERS]
            self._changed.notify_all()
        try:
            yield watcher
        finally:
            with self._changed, suppress(ValueError):
                self._watchers.remove(watcher)

    def _next_events(self, watcher: object, seen: int) -> Sequence[JobEvent]:
        """What came after `seen`; waits for it. Raises `TooManyWatchers`, `ServerStopping`."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self._number > seen or watcher not in self._watchers
            )
            fresh = [entry for entry in self._record if entry.number > seen]
            replaced = watcher not in self._watchers
        if fresh:
            return fresh
        if replaced:
            raise TooManyWatchers(
                "This video is shown in newer tabs; reload this page to see it here again."
            )
        raise ServerStopping("The server is stopping; your video will be made when it is back.")

    @property
    def _number(self) -> int:
        return self._record[-1].number

    def _append(self, event: Event, at: datetime, number: int = 0) -> None:
        """`number`: that of the table. The own one must not fall behind, since what is numbered
        here may be written there."""
        before = self._record
        self._record = append(before, event, at)
        if self._record is not before:
            *kept, newest = self._record
            self._record = (*kept, replace(newest, number=max(newest.number, number)))
            self._changed.notify_all()


def _times(row: Row) -> Times:
    started, ended = (None if at is None else utc(at) for at in (row.started, row.ended))
    return Times(utc(row.submitted), started, ended)


MAX_ENDED = 200
"""Ended jobs of which an older row may still come in from a look at the table under way."""


class OpenJobs:
    """Thread-safe cache of open jobs. `in_turn`: whether one job waits for another."""

    def __init__(self, make_job: Callable[[Row], JobHandle], in_turn: bool = True) -> None:
        self._make_job = make_job
        self._in_turn = in_turn
        self._lock = threading.Lock()
        self._jobs: dict[str, JobHandle] = {}
        self._rows: dict[str, Row] = {}
        self._line: list[tuple[int, int, str]] = []
        self._running = 0
        self._ended: dict[str, JobHandle] = {}
        self._closed = False

    def upsert(self, row: Row) -> JobHandle:
        """Insert or update the job of `row`. An outdated row changes nothing. Returns the job."""
        with self._lock:
            if (job := self._ended.get(row.id)) is not None:
                return job
            if (job := self._jobs.get(row.id)) is None:
                job = self._make_job(row)
                if self._closed:
                    job.close()
            elif not job.merge(row):
                return job
            self._place(row, job)
            return job

    def find(self, job_id: str) -> JobHandle | None:
        with self._lock:
            return self._jobs.get(job_id)

    def versions(self) -> dict[str, int]:
        """The cached row version of each open job."""
        with self._lock:
            return {job_id: row.version for job_id, row in self._rows.items()}

    def position(self, job_id: str) -> int:
        """How many jobs go before it; 0 if it does not wait."""
        with self._lock:
            row = self._rows.get(job_id)
            if row is None or row.state is not State.WAITING or not self._in_turn:
                return 0
            return self._running + bisect_left(self._line, _sort_key(row))

    def waiting(self) -> int:
        with self._lock:
            return len(self._line)

    def count(self, owner: str | None = None) -> int:
        """Number of jobs that count against the limit, of `owner` if given: the waiting ones, or
        all open ones where no job waits for another."""
        with self._lock:
            return sum(
                owner in (None, row.options.owner)
                for row in self._rows.values()
                if not self._in_turn or row.state is State.WAITING
            )

    def without_image(self) -> list[Row]:
        """Jobs whose photos are still to be fetched, in the order of the line."""
        with self._lock:
            rows = (self._rows[job_id] for _, _, job_id in self._line)
            return [row for row in rows if row.image is None and row.image_url is not None]

    def forget(self, job_id: str) -> None:
        """Remove a job that is no longer in the table."""
        with self._lock:
            self._remove_from_line(job_id)
            if (job := self._jobs.pop(job_id, None)) is not None:
                job.close()

    def close(self) -> None:
        """Release all watchers: no job makes progress here any more."""
        with self._lock:
            self._closed = True
            for job in self._jobs.values():
                job.close()

    def _place(self, row: Row, job: JobHandle) -> None:
        before = self._rows.get(row.id)
        if before is not None and before.state is row.state:
            self._rows[row.id] = row
            return
        first = self._remove_from_line(row.id)
        if row.state is State.ENDED:
            self._jobs.pop(row.id, None)
            self._ended[row.id] = job
            if len(self._ended) > MAX_ENDED:
                del self._ended[next(iter(self._ended))]
        else:
            self._jobs[row.id] = job
            self._rows[row.id] = row
            if row.state is State.WAITING:
                insort(self._line, _sort_key(row))
                first = min(first, bisect_left(self._line, _sort_key(row)))
            else:
                self._running += 1
                first = 0
        self._report_positions(first)

    def _remove_from_line(self, job_id: str) -> int:
        """Take a job from its place. Returns from which place in line on things have changed."""
        row = self._rows.pop(job_id, None)
        if row is None:
            return len(self._line)
        if row.state is State.RUNNING:
            self._running -= 1
            return 0
        index = bisect_left(self._line, _sort_key(row))
        del self._line[index]
        return index

    def _report_positions(self, first: int) -> None:
        if not self._in_turn:
            return
        for ahead in range(first, len(self._line)):
            job = self._jobs[self._line[ahead][2]]
            now = Progress(stage=Stage.QUEUED, step=self._running + ahead)
            if job.last != now:
                job.report(now)


def _sort_key(row: Row) -> tuple[int, int, str]:
    return row.rank, row.number, row.id
