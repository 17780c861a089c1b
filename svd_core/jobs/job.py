"""Job handle: the events of a job as far as this process knows them, and its watchers."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime

from svd_core.errors import ServerStopping, TooManyWatchers
from svd_core.events import Event, Progress
from svd_core.jobs.interface import Cancellation, JobEvent, Times
from svd_core.jobs.schema import Record, Row, append, is_finished
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
