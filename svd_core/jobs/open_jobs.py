"""The open jobs as this process sees them: their tickets, and the line in which they stand."""

import threading
from bisect import bisect_left, insort
from collections.abc import Callable

from svd_core.events import Progress, Stage
from svd_core.jobs.job import Ticket
from svd_core.jobs.schema import Row, State

REMEMBERED = 200
"""Ended jobs of which an older row may still come in from a look at the table under way."""


class Board:
    """Safe to use from any thread. `in_turn`: whether one job waits for another."""

    def __init__(self, make: Callable[[Row], Ticket], in_turn: bool = True) -> None:
        self._make = make
        self._in_turn = in_turn
        self._lock = threading.Lock()
        self._tickets: dict[str, Ticket] = {}
        self._rows: dict[str, Row] = {}
        self._line: list[tuple[int, int, str]] = []
        self._running = 0
        self._ended: dict[str, Ticket] = {}
        self._closed = False

    def show(self, row: Row) -> Ticket:
        """Bring the board up to date with `row`, however old that is. Returns the job's ticket."""
        with self._lock:
            if (ticket := self._ended.get(row.id)) is not None:
                return ticket
            if (ticket := self._tickets.get(row.id)) is None:
                ticket = self._make(row)
                if self._closed:
                    ticket.close()
            elif not ticket.merge(row):
                return ticket
            self._place(row, ticket)
            return ticket

    def find(self, job_id: str) -> Ticket | None:
        with self._lock:
            return self._tickets.get(job_id)

    def versions(self) -> dict[str, int]:
        """What is known of each open job."""
        with self._lock:
            return {job_id: row.version for job_id, row in self._rows.items()}

    def position(self, job_id: str) -> int:
        """How many jobs go before it; 0 if it does not wait."""
        with self._lock:
            row = self._rows.get(job_id)
            if row is None or row.state is not State.WAITING or not self._in_turn:
                return 0
            return self._running + bisect_left(self._line, _place(row))

    def waiting(self) -> int:
        with self._lock:
            return len(self._line)

    def taken(self, owner: str | None = None) -> int:
        """How many places are taken, those of `owner` if one is named: one in line, or where there
        is none, one of the jobs that are open at once."""
        with self._lock:
            return sum(
                owner in (None, row.options.owner)
                for row in self._rows.values()
                if not self._in_turn or row.state is State.WAITING
            )

    def unprovided(self) -> list[Row]:
        """Jobs whose photos are still to be fetched, in the order of the line."""
        with self._lock:
            rows = (self._rows[job_id] for _, _, job_id in self._line)
            return [row for row in rows if row.image is None and row.image_url is not None]

    def forget(self, job_id: str) -> None:
        """Take a job off that is in the table no more."""
        with self._lock:
            self._leave(job_id)
            if (ticket := self._tickets.pop(job_id, None)) is not None:
                ticket.close()

    def close(self) -> None:
        """Let go whoever watches a job: nobody works on it here any more."""
        with self._lock:
            self._closed = True
            for ticket in self._tickets.values():
                ticket.close()

    def _place(self, row: Row, ticket: Ticket) -> None:
        before = self._rows.get(row.id)
        if before is not None and before.state is row.state:
            self._rows[row.id] = row
            return
        first = self._leave(row.id)
        if row.state is State.ENDED:
            self._tickets.pop(row.id, None)
            self._ended[row.id] = ticket
            if len(self._ended) > REMEMBERED:
                del self._ended[next(iter(self._ended))]
        else:
            self._tickets[row.id] = ticket
            self._rows[row.id] = row
            if row.state is State.WAITING:
                insort(self._line, _place(row))
                first = min(first, bisect_left(self._line, _place(row)))
            else:
                self._running += 1
                first = 0
        self._tell_positions(first)

    def _leave(self, job_id: str) -> int:
        """Take a job from its place. Returns from which place in line on things have changed."""
        row = self._rows.pop(job_id, None)
        if row is None:
            return len(self._line)
        if row.state is State.RUNNING:
            self._running -= 1
            return 0
        index = bisect_left(self._line, _place(row))
        del self._line[index]
        return index

    def _tell_positions(self, first: int) -> None:
        if not self._in_turn:
            return
        for ahead in range(first, len(self._line)):
            ticket = self._tickets[self._line[ahead][2]]
            now = Progress(stage=Stage.QUEUED, step=self._running + ahead)
            if ticket.last != now:
                ticket.report(now)


def _place(row: Row) -> tuple[int, int, str]:
    return row.rank, row.number, row.id
