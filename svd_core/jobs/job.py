"""Job handles: the events of one job with its watchers, and the cache of all open jobs.

The table is the truth. A handle merges the rows that it is given with what is reported here.
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
"""Watchers of one job. Each blocks a thread of the page for as long as the job is open."""

CANCELLING_NOTE = "Stopping; the step that is under way still runs to its end."


class JobHandle:
    """Implements `Job`. It does not hold the photo, so that it needs little memory.

    `now`: clock for reported events. `on_cancel` is called with the id. `on_watch` may return the
    events of the work itself, if the watcher is to do it.
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
        """Record `event` and wake all watchers. Events after the end are dropped."""
        with self._changed:
            self._append(event, utc(self._now()))

    def stop(self) -> None:
        """Have the work stop at its next progress, and report that once."""
        with self._changed:
            if not self.cancel_event.is_set() and isinstance(last := self.last, Progress):
                self.cancel_event.set()
                self._append(replace(last, note=CANCELLING_NOTE), utc(self._now()))

    def snapshot(self) -> Record:
        """The record for the table, to be written by the worker of the job."""
        with self._changed:
            self._merged = self._number
            return self._record

    def merge(self, row: Row) -> bool:
        """Merge a row of the table; False if `row` is older than the last one."""
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
        """Release all watchers: no more events will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @contextmanager
    def _watcher(self) -> Iterator[object]:
        """Register a watcher, in place of the oldest one if there are `MAX_WATCHERS`."""
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
        """Wait for the events after `seen`. Raises `TooManyWatchers`, `ServerStopping`."""
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
        """Append an event. `number`: its number in the table, which ours must not fall behind,
        since events numbered here are written there."""
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
"""Ended jobs to remember, since a read of the table under way may bring an older row."""


class OpenJobs:
    """Cache of open jobs with their positions in line. Thread-safe.

    `in_turn`: whether one job waits for another.
    """

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
        """The number of jobs ahead of it; 0 if it does not wait."""
        with self._lock:
            row = self._rows.get(job_id)
            if row is None or row.state is not State.WAITING or not self._in_turn:
                return 0
            return self._running + bisect_left(self._line, _sort_key(row))

    def waiting(self) -> int:
        with self._lock:
            return len(self._line)

    def has_ready(self) -> bool:
        """Whether a job waits that has its photo."""
        with self._lock:
            rows = (self._rows[job_id] for _, _, job_id in self._line)
            return any(row.image is not None or row.image_url is None for row in rows)

    def count(self, owner: str | None = None) -> int:
        """Count the jobs that the limit is for, of `owner` if given: the waiting ones, or all open
        ones if no job waits for another."""
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
        """Remove a job from the line. Returns the first place that has changed."""
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
            progress = Progress(stage=Stage.QUEUED, step=self._running + ahead)
            if job.last != progress:
                job.report(progress)


def _sort_key(row: Row) -> tuple[int, int, str]:
    return row.rank, row.number, row.id
