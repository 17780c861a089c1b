"""Job table: state transitions of jobs, each in one transaction.

The table is the only truth: every process acts on what it reads there. The functions at the top
change one row inside a transaction of their caller.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, func, insert, or_, select, update

from svd_core.errors import GenerationFailed, StartTimeout, UnknownJob
from svd_core.events import Failed, Progress, Stage, Stopped, Succeeded
from svd_core.jobs.clock import SteadyClock
from svd_core.jobs.database import Database
from svd_core.jobs.interface import Cancellation, JobOptions, Outcome
from svd_core.jobs.schema import (
    JOBS,
    OUTBOX,
    SEQUENCE,
    Record,
    Row,
    State,
    append,
    create_tables,
    to_json,
)
from svd_core.params import VideoParams

MAX_ATTEMPTS = 3
"""Attempts of a job whose worker dies: after three the job itself is likely the cause."""

PRUNE_INTERVAL = 50
"""Numbers in line between two counts of rejected requests."""

WORKER_GONE_NOTE = (
    "The machine for this video was taken away; the video starts over on another one."
)

OPEN_STATES = (State.WAITING, State.RUNNING)

MAX_REJECTED = 500
"""Rejected requests kept of one owner. They have no video, so the limit of bytes misses them."""


def next_number(connection: Connection) -> int:
    """Take the next number in line. Other transactions that take one wait until this one ends."""
    connection.execute(update(SEQUENCE).values(number=SEQUENCE.c.number + 1))
    return connection.scalar(select(SEQUENCE.c.number)) or 0


def lock_line(connection: Connection) -> None:
    """Lock the line: transactions that write or count references to photos wait for this one.

    SQLite locks the whole database anyway when a writing transaction begins.
    """
    connection.execute(select(SEQUENCE.c.number).with_for_update())


def lock_row(connection: Connection, job_id: str) -> Row | None:
    """Read the row of a job, and lock it until this transaction ends."""
    query = select(JOBS).where(JOBS.c.id == job_id).with_for_update()
    columns = connection.execute(query).mappings().first()
    return None if columns is None else Row.from_columns(columns)


def update_row(connection: Connection, row: Row, **values: Any) -> Row:
    """Write `values` into `row`. Returns the new row."""
    after = replace(row, version=row.version + 1, **values)
    columns = after.to_columns()
    names = [*values, "version", "record"]
    connection.execute(
        update(JOBS).where(JOBS.c.id == row.id).values({name: columns[name] for name in names})
    )
    return after


def finish(connection: Connection, row: Row, outcome: Outcome, now: float, size: int = 0) -> Row:
    """End `row`, with `size` bytes on disk, and enter its webhook in the same transaction."""
    now = max(now, row.started or row.submitted)
    options = row.options
    if options.webhook is not None:
        delivery = {"job_id": row.id, "url": options.webhook, "tries": 0, "problem": ""}
        connection.execute(insert(OUTBOX).values(delivery | {"state": "due"}))
    return update_row(
        connection,
        row,
        state=State.ENDED,
        ended=now,
        expires=None if options.keep_s is None else now + options.keep_s,
        record=append(row.record, outcome, utc(now)),
        image=row.image if options.keep_photo and isinstance(outcome, Succeeded) else None,
        worker=None,
        bytes=size,
    )


def requeue(connection: Connection, row: Row, note: str, now: float, attempt: int) -> Row:
    """Give `row` its old place in line, or end it if it was cancelled. `attempt`: the new count."""
    if row.stop_asked:
        return finish(connection, row, Stopped(), now)
    queued = Progress(stage=Stage.QUEUED, note=note)
    return update_row(
        connection,
        row,
        state=State.WAITING,
        worker=None,
        attempt=attempt,
        started=None,
        record=append(row.record, queued, utc(now)),
    )


def prune_rejected(connection: Connection, owner: str) -> None:
    """Delete the oldest rejected requests of `owner`, with their webhooks."""
    rejected = select(JOBS.c.id).where(
        JOBS.c.owner == owner, JOBS.c.params.is_(None), JOBS.c.state == State.ENDED
    )
    old = list(connection.scalars(rejected.order_by(JOBS.c.number.desc()).offset(MAX_REJECTED)))
    for start in range(0, len(old), 500):  # databases limit what one statement may name
        batch = old[start : start + 500]
        connection.execute(delete(OUTBOX).where(OUTBOX.c.job_id.in_(batch)))
        connection.execute(delete(JOBS).where(JOBS.c.id.in_(batch)))


def utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


class JobSummary(NamedTuple):
    """Columns of an open job that every process reads each second."""

    id: str
    state: str
    version: int
    worker: str | None
    submitted: float
    start_timeout_s: float | None


class JobTable:
    """Table of all jobs. Safe to use from any thread and any number of processes.

    `on_released` is called with the name of a photo that a job no longer refers to, after the
    commit. Every method may also raise `QueueUnavailable` and `StorageFull`.
    """

    def __init__(self, database: Database, clock: SteadyClock | None = None) -> None:
        self.database = database
        self.clock = clock or SteadyClock()
        self.on_released: Callable[[str], None] = lambda _: None
        create_tables(database)

    def new(
        self, job_id: str, params: VideoParams | None, options: JobOptions, **photo: str
    ) -> Row:
        """Make a row that is not in the table yet. `photo`: `image` (perhaps with `continues`),
        `image_url`, or neither."""
        now = self.clock.now()
        record = append((), Progress(stage=Stage.QUEUED), utc(now))
        return Row(
            id=job_id, params=params, options=options, record=record, submitted=now,
            image=photo.get("image"), image_url=photo.get("image_url"),
            continues=photo.get("continues"),
        )  # fmt: skip

    def insert(
        self, row: Row, counted: Collection[State], admit: Callable[[int, int], None]
    ) -> Row:
        """Put `row` at the end of the line.

        `admit` may refuse it by an error. It is called with the number of all jobs in the
        `counted` states, and of those of the same owner.
        """
        with self.database.write() as connection:
            row = replace(row, number=next_number(connection))
            count = select(func.count()).select_from(JOBS).where(JOBS.c.state.in_(counted))
            owned = count.where(JOBS.c.owner == row.options.owner)
            admit(connection.scalar(count) or 0, connection.scalar(owned) or 0)
            connection.execute(insert(JOBS).values(row.to_columns()))
        return row

    def insert_ended(self, row: Row, outcome: Outcome) -> Row:
        """Insert a job that ended before it began."""
        with self.database.write() as connection:
            row = replace(row, number=next_number(connection))
            connection.execute(insert(JOBS).values(row.to_columns()))
            if row.number % PRUNE_INTERVAL == 0:
                prune_rejected(connection, row.options.owner)
            return finish(connection, row, outcome, self.clock.now())

    def get(self, job_id: str) -> Row | None:
        return next(iter(self.get_many([job_id])), None)

    def get_many(self, ids: Collection[str]) -> list[Row]:
        with self.database.read() as connection:
            rows = connection.execute(select(JOBS).where(JOBS.c.id.in_(ids))).mappings()
            return [Row.from_columns(columns) for columns in rows]

    def list_by_owner(self, owner: str, limit: int) -> list[Row]:
        """The newest jobs of `owner`, newest first."""
        owned = select(JOBS).where(JOBS.c.owner == owner)
        newest = owned.order_by(JOBS.c.number.desc()).limit(limit)
        with self.database.read() as connection:
            return [Row.from_columns(row) for row in connection.execute(newest).mappings()]

    def open_jobs(self) -> list[JobSummary]:
        """Summaries of the jobs that wait or run."""
        columns = (JOBS.c[name] for name in JobSummary._fields[:-1])
        timeout = (JOBS.c.start_by - JOBS.c.submitted).label("start_timeout_s")
        with self.database.read() as connection:
            rows = connection.execute(
                select(*columns, timeout).where(JOBS.c.state.in_(OPEN_STATES))
            )
            return [JobSummary(**values) for values in rows.mappings()]

    def claim(self, worker: str, job_id: str | None = None) -> Row | None:
        """Claim the first job in line that has its photo, or the job `job_id`. Returns None if
        there is no such job, or it does not wait."""
        now = self.clock.now()
        in_time = or_(JOBS.c.start_by.is_(None), JOBS.c.start_by > now)
        has_photo = or_(JOBS.c.image.is_not(None), JOBS.c.image_url.is_(None))
        condition = has_photo if job_id is None else JOBS.c.id == job_id
        claimable = select(JOBS).where(JOBS.c.state == State.WAITING, in_time, condition)
        first = claimable.order_by(JOBS.c.rank, JOBS.c.number).limit(1)
        with self.database.write() as connection:
            columns = connection.execute(first.with_for_update(skip_locked=True)).mappings().first()
            if columns is None:
                return None
            row = Row.from_columns(columns)
            return update_row(
                connection,
                row,
                state=State.RUNNING,
                worker=worker,
                attempt=row.attempt + 1,
                started=max(now, row.submitted),
            )

    def heartbeat(self, job_id: str, worker: str, record: Record) -> bool | None:
        """Renew the lease of `worker`, and write the record. Returns whether the job was cancelled;
        None if it is not the worker's any more."""
        mine = (JOBS.c.id == job_id) & (JOBS.c.worker == worker)
        values = {"version": JOBS.c.version + 1, "record": to_json(record)}
        with self.database.write() as connection:
            if connection.execute(update(JOBS).where(mine).values(values)).rowcount == 0:
                return None
            return connection.scalar(select(JOBS.c.stop_asked).where(mine))

    def end(
        self, job_id: str, worker: str, record: Record, outcome: Outcome, size: int
    ) -> Row | None:
        """End a job that `worker` has run, with `size` bytes on disk. Returns None if it is not
        the worker's any more."""
        with self.database.write() as connection:
            row = lock_row(connection, job_id)
            if row is None or row.worker != worker:
                return None
            row = replace(row, record=record)
            after = finish(connection, row, outcome, self.clock.now(), size)
        return self._notify(row, after)

    def release(self, job_id: str, worker: str, note: str) -> Row | None:
        """Put a job of `worker` back in its place in line, as if it had not begun. `note`: the
        reason."""
        with self.database.write() as connection:
            row = lock_row(connection, job_id)
            if row is None or row.worker != worker:
                return None
            after = requeue(connection, row, note, self.clock.now(), row.attempt - 1)
        return self._notify(row, after)

    def lose(self, job_id: str, worker: str, record: Record, *, counted: bool) -> Row | None:
        """Put a job of `worker` whose executor is lost back in line; end it after `MAX_ATTEMPTS`.

        `counted`: whether the attempt counts.
        """
        with self.database.write() as connection:
            row = lock_row(connection, job_id)
            if row is None or row.worker != worker:
                return None
            row = replace(row, record=record)
            if not counted:
                note = WORKER_GONE_NOTE
                after = requeue(connection, row, note, self.clock.now(), row.attempt - 1)
            else:
                after = _requeue_counted(connection, row, self.clock.now())
        return self._notify(row, after)

    def requeue_lost(self, job_id: str, version: int) -> Row | None:
        """Put a job of a dead worker back in its place in line; end it after `MAX_ATTEMPTS`.

        Returns None if the worker has changed the row since `version`.
        """
        with self.database.write() as connection:
            row = lock_row(connection, job_id)
            if row is None or row.state is not State.RUNNING or row.version != version:
                return None
            after = _requeue_counted(connection, row, self.clock.now())
        return self._notify(row, after)

    def cancel(self, job_id: str) -> tuple[Cancellation, Row]:
        """Cancel a job. Raises `UnknownJob`."""
        with self.database.write() as connection:
            row = lock_row(connection, job_id)
            if row is None:
                raise UnknownJob("This job is not known here any more.")
            if row.state is State.RUNNING:
                return Cancellation.REQUESTED, update_row(connection, row, stop_asked=True)
            if row.state is State.ENDED:
                return Cancellation.TOO_LATE, row
            after = finish(connection, row, Stopped(), self.clock.now())
        return Cancellation.REMOVED, self._notify(row, after)

    def time_out(self, job_id: str) -> Row | None:
        """End a job that has waited too long. Returns None if it does not wait any more."""
        error = StartTimeout(
            "The video could not be started within the time you allowed; please try again later, "
            "or allow more."
        )
        return self.end_waiting(job_id, Failed(error))

    def end_waiting(self, job_id: str, outcome: Outcome) -> Row | None:
        """End a waiting job. Returns None if it does not wait any more."""
        with self.database.write() as connection:
            row = lock_row(connection, job_id)
            if row is None or row.state is not State.WAITING:
                return None
            after = finish(connection, row, outcome, self.clock.now())
        return self._notify(row, after)

    def set_image(
        self, job_id: str, image: str, ensure: Callable[[], None] = lambda: None
    ) -> Row | None:
        """Give a job its photo, which is on disk. Returns None if it does not wait any more.

        `ensure`: see `JobPhotos.put`.
        """
        with self.database.write() as connection:
            lock_line(connection)
            row = lock_row(connection, job_id)
            if row is None or row.state is not State.WAITING:
                return None
            ensure()
            return update_row(connection, row, image=image)

    def _notify(self, before: Row, after: Row) -> Row:
        """Pass the photo that the job no longer refers to on to `on_released`. Returns `after`."""
        if before.image is not None and after.image is None:
            self.on_released(before.image)
        return after


def _requeue_counted(connection: Connection, row: Row, now: float) -> Row:
    """Give `row` its old place in line, or end it after `MAX_ATTEMPTS`."""
    if row.attempt >= MAX_ATTEMPTS and not row.stop_asked:
        error = GenerationFailed(
            f"The server went down each of the {row.attempt} times it worked on this video; please "
            "try again with fewer steps or frames, or with another photo."
        )
        return finish(connection, row, Failed(error), now)
    note = (
        "The server went down while it worked on this video; it starts over "
        f"(attempt {row.attempt + 1} of {MAX_ATTEMPTS})."
    )
    return requeue(connection, row, note, now, row.attempt)
