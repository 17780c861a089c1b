"""Job table: every state change of a job is one transaction. The table is the only truth.

State transitions of one row, inside a transaction of the caller.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, func, insert, or_, select, update

from svd_core.errors import GenerationFailed, StartTimeout, SvdError, UnknownJob
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

MAX_REJECTED = 500
"""Refused requests that are kept of one owner; they have no video to look for."""


def next_number(connection: Connection) -> int:
    """The next number in line; everybody else who wants one waits until this transaction ends."""
    connection.execute(update(SEQUENCE).values(number=SEQUENCE.c.number + 1))
    return connection.scalar(select(SEQUENCE.c.number)) or 0


def lock_line(connection: Connection) -> None:
    """Have everybody who refers to a photo, or looks for references, wait until this transaction
    ends. SQLite locks the whole table when a transaction that writes begins."""
    connection.execute(select(SEQUENCE.c.number).with_for_update())


def lock_row(connection: Connection, job_id: str) -> Row | None:
    """The row of a job, which nobody else changes until this transaction ends."""
    wanted = select(JOBS).where(JOBS.c.id == job_id).with_for_update()
    columns = connection.execute(wanted).mappings().first()
    return None if columns is None else Row.from_columns(columns)


def update_row(connection: Connection, row: Row, **values: Any) -> Row:
    """Write `values` into `row` and return it as it is then."""
    after = replace(row, version=row.version + 1, **values)
    columns = after.to_columns()
    names = [*values, "version", "record"]
    connection.execute(
        update(JOBS).where(JOBS.c.id == row.id).values({name: columns[name] for name in names})
    )
    return after


def finish(connection: Connection, row: Row, outcome: Outcome, now: float, size: int = 0) -> Row:
    """End `row`, with `size` bytes on disk, and enter its webhook: both or neither."""
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
    """Give `row` its old place in line, or end it if that was wished. `attempt`: how many count."""
    if row.stop_asked:
        return finish(connection, row, Stopped(), now)
    waits = Progress(stage=Stage.QUEUED, note=note)
    return update_row(
        connection,
        row,
        state=State.WAITING,
        worker=None,
        attempt=attempt,
        started=None,
        record=append(row.record, waits, utc(now)),
    )


def prune_rejected(connection: Connection, owner: str) -> None:
    """Forget the oldest refused requests of `owner`, with their webhooks."""
    refused = select(JOBS.c.id).where(
        JOBS.c.owner == owner, JOBS.c.params.is_(None), JOBS.c.state == State.ENDED
    )
    old = list(connection.scalars(refused.order_by(JOBS.c.number.desc()).offset(MAX_REJECTED)))
    for start in range(0, len(old), 500):  # databases limit what one statement may name
        batch = old[start : start + 500]
        connection.execute(delete(OUTBOX).where(OUTBOX.c.job_id.in_(batch)))
        connection.execute(delete(JOBS).where(JOBS.c.id.in_(batch)))


def utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


MAX_ATTEMPTS = 3
"""How often a job is begun whose worker dies on it: the third time it is likely the job's doing."""

PRUNE_INTERVAL = 50
"""Numbers in line between two looks at how many refused requests an owner has."""

OPEN_STATES = (State.WAITING, State.RUNNING)


class JobSummary(NamedTuple):
    """What has to be known of every open job every second."""

    id: str
    state: str
    version: int
    worker: str | None
    submitted: float
    start_timeout_s: float | None


class JobTable:
    """Safe to use from any thread and any number of processes.

    `on_released` is called with the name of a photo that a job has let go of, after the change is
    written. Methods raise `QueueUnavailable` and `StorageFull` besides what they name.
    """

    def __init__(self, database: Database, clock: SteadyClock | None = None) -> None:
        self.database = database
        self.clock = clock or SteadyClock()
        self.on_released: Callable[[str], None] = lambda _: None
        create_tables(database)

    def new(
        self, job_id: str, params: VideoParams | None, options: JobOptions, **photo: str
    ) -> Row:
        """A row that is not in the table yet. `photo`: `image`, `image_url`, or neither; beside
        `image` perhaps `continues`."""
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
        """Put `row` at the end of the line. `admit` is called with the number of jobs in the
        `counted` states, and of those that are of the same owner; what it raises is raised."""
        with self.database.write() as connection:
            row = replace(row, number=next_number(connection))
            here = select(func.count()).select_from(JOBS).where(JOBS.c.state.in_(counted))
            own = here.where(JOBS.c.owner == row.options.owner)
            admit(connection.scalar(here) or 0, connection.scalar(own) or 0)
            connection.execute(insert(JOBS).values(row.to_columns()))
        return row

    def insert_ended(self, row: Row, outcome: Outcome) -> Row:
        """Put in a job that is over before it began."""
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
            found = connection.execute(select(JOBS).where(JOBS.c.id.in_(ids))).mappings()
            return [Row.from_columns(columns) for columns in found]

    def list_by_owner(self, owner: str, limit: int) -> list[Row]:
        """The newest jobs of `owner`, the newest first."""
        theirs = select(JOBS).where(JOBS.c.owner == owner)
        newest = theirs.order_by(JOBS.c.number.desc()).limit(limit)
        with self.database.read() as connection:
            return [Row.from_columns(found) for found in connection.execute(newest).mappings()]

    def open_jobs(self) -> list[JobSummary]:
        """The jobs that wait or run."""
        columns = (JOBS.c[name] for name in JobSummary._fields[:-1])
        timeout = (JOBS.c.start_by - JOBS.c.submitted).label("start_timeout_s")
        with self.database.read() as connection:
            found = connection.execute(
                select(*columns, timeout).where(JOBS.c.state.in_(OPEN_STATES))
            )
            return [JobSummary(**values) for values in found.mappings()]

    def claim(self, worker: str, job_id: str | None = None) -> Row | None:
        """Begin the first job in line that has its photo, or that of `job_id`; None if there is
        none, or it does not wait."""
        now = self.clock.now()
        in_time = or_(JOBS.c.start_by.is_(None), JOBS.c.start_by > now)
        provided = or_(JOBS.c.image.is_not(None), JOBS.c.image_url.is_(None))
        which = provided if job_id is None else JOBS.c.id == job_id
        wanted = select(JOBS).where(JOBS.c.state == State.WAITING, in_time, which)
        first = wanted.order_by(JOBS.c.rank, JOBS.c.number).limit(1)
        with self.database.write() as connection:
            found = connection.execute(first.with_for_update(skip_locked=True)).mappings().first()
            if found is None:
                return None
            row = Row.from_columns(found)
            return update_row(
                connection,
                row,
                state=State.RUNNING,
                worker=worker,
                attempt=row.attempt + 1,
                started=max(now, row.submitted),
            )

    def heartbeat(self, job_id: str, worker: str, record: Record) -> bool | None:
        """Say that `worker` is still at it, and what has come of it. Returns whether it is asked
        to stop; None if the job is not its any more."""
        mine = (JOBS.c.id == job_id) & (JOBS.c.worker == worker)
        values = {"version": JOBS.c.version + 1, "record": to_json(record)}
        with self.database.write() as connection:
            if connection.execute(update(JOBS).where(mine).values(values)).rowcount == 0:
                return None
            return connection.scalar(select(JOBS.c.stop_asked).where(mine))

    def end(
        self, job_id: str, worker: str, record: Record, outcome: Outcome, size: int
    ) -> Row | None:
        """End a job that `worker` has run, with `size` bytes as its result; None if it is not its
        any more."""
        with self.database.write() as connection:
            row = lock_row(connection, job_id)
            if row is None or row.worker != worker:
                return None
            known = replace(row, record=record)
            after = finish(connection, known, outcome, self.clock.now(), size)
        return self._notify(row, after)

    def release(self, job_id: str, worker: str, note: str) -> Row | None:
        """Put a job of `worker` back to its place in line, as if it had not been begun. `note`:
        why."""
        with self.database.write() as connection:
            row = lock_row(connection, job_id)
            if row is None or row.worker != worker:
                return None
            after = requeue(connection, row, note, self.clock.now(), row.attempt - 1)
        return self._notify(row, after)

    def requeue_lost(self, job_id: str, version: int) -> Row | None:
        """Put a job whose worker is gone back to its place in line, or end it if that has happened
        too often. None if the worker has shown up since `version`."""
        with self.database.write() as connection:
            row = lock_row(connection, job_id)
            if row is None or row.state is not State.RUNNING or row.version != version:
                return None
            note = (
                "The server went down while it worked on this video; it starts over "
                f"(attempt {row.attempt + 1} of {MAX_ATTEMPTS})."
            )
            if row.attempt >= MAX_ATTEMPTS and not row.stop_asked:
                after = finish(connection, row, Failed(_crash_loop_error(row)), self.clock.now())
            else:
                after = requeue(connection, row, note, self.clock.now(), row.attempt)
        return self._notify(row, after)

    def cancel(self, job_id: str) -> tuple[Cancellation, Row]:
        """Raises `UnknownJob`."""
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
        """End a job that has waited too long; None if it does not wait any more."""
        error = StartTimeout(
            "The video could not be started within the time you allowed; please try again later, "
            "or allow more."
        )
        return self.end_waiting(job_id, Failed(error))

    def end_waiting(self, job_id: str, outcome: Outcome) -> Row | None:
        """End a job before it is begun; None if it does not wait any more."""
        with self.database.write() as connection:
            row = lock_row(connection, job_id)
            if row is None or row.state is not State.WAITING:
                return None
            after = finish(connection, row, outcome, self.clock.now())
        return self._notify(row, after)

    def set_image(
        self, job_id: str, image: str, ensure: Callable[[], None] = lambda: None
    ) -> Row | None:
        """Give a job its photo, which is on disk; None if it does not wait any more. `ensure`: see
        `JobPhotos.put`."""
        with self.database.write() as connection:
            lock_line(connection)
            row = lock_row(connection, job_id)
            if row is None or row.state is not State.WAITING:
                return None
            ensure()
            return update_row(connection, row, image=image)

    def _notify(self, before: Row, after: Row) -> Row:
        """`after`; the photo that the job has let go of since `before` is told to `on_released`."""
        if before.image is not None and after.image is None:
            self.on_released(before.image)
        return after


def _crash_loop_error(row: Row) -> SvdError:
    return GenerationFailed(
        f"The server went down each of the {row.attempt} times it worked on this video; please "
        "try again with fewer steps or frames, or with another photo."
    )
