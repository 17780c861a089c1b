"""Cache of the open jobs of the table, with their positions in line."""

import threading
from bisect import bisect_left, insort
from collections.abc import Callable

from svd_core.events import Progress, Stage
from svd_core.jobs.job import JobHandle
from svd_core.jobs.schema import Row, State

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
