"""Job table: the durable state of every job. Each change of a job is one transaction.

One process owns the table (see `owner_lock`); others only read it. Transitions are pure functions
of a row, and the table writes their result. Invariant: a photo is stored exactly as long as a job
refers to it, since both change in one transaction.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Select, delete, insert, select, update

from svd_core.database import Database
from svd_core.errors import GenerationFailed
from svd_core.events import Failed, Outcome, Progress, Stage, Stopped, Succeeded
from svd_core.jobs.interface import JobOptions
from svd_core.jobs.schema import (
    JOBS,
    OUTBOX,
    PHOTOS,
    SEQUENCE,
    Record,
    Row,
    State,
    append,
    renumber,
)
from svd_core.messages import Message
from svd_core.params import VideoParams

MAX_ATTEMPTS = 3
"""Most attempts of a job whose worker dies. After three, the job is likely the cause."""

PRUNE_INTERVAL = 50
"""Number of jobs between two counts of rejected requests."""

MAX_REJECTED = 500
"""Most rejected requests of one owner. Without videos, no limit of bytes applies to them."""

OPEN = select(JOBS).where(JOBS.c.state.in_([State.WAITING, State.RUNNING])).order_by(JOBS.c.number)
Transition = Callable[[Row, float], Row]
"""Returns the changed row. Its second argument is the time, in seconds since 1970."""


class SteadyClock:
    """Wall clock that never goes back while the process lives.

    It follows `wall` while that advances, and `steady` after the wall clock was set back.
    """

    def __init__(
        self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall, self._steady = wall, steady
        self._lock = threading.Lock()
        self._shown, self._at = wall(), steady()

    def now(self) -> float:
        """Seconds since 1970 UTC: at least the last value plus the seconds since then."""
        with self._lock:
            at = self._steady()
            self._shown = max(self._wall(), self._shown + at - self._at)
            self._at = at
            return self._shown


def utc(at: float) -> datetime:
    """`at`, in seconds since 1970, as a time in UTC."""
    return datetime.fromtimestamp(at, UTC)


def photo_name(photo: bytes) -> str:
    """The name by which a job refers to its photo."""
    return hashlib.sha256(photo).hexdigest()


def new_row(params: VideoParams | None, options: JobOptions, now: float) -> Row:
    """The row of a new job, which gets its number when it is inserted."""
    record = append((), Progress(stage=Stage.QUEUED), utc(now))
    return Row(id=uuid4().hex, params=params, options=options, record=record, submitted=now)


def begin(row: Row, now: float) -> Row:
    """Begin an attempt of a waiting job."""
    started = max(now, row.submitted)
    return replace(row, state=State.RUNNING, attempt=row.attempt + 1, started=started)


def finish(row: Row, now: float, outcome: Outcome, size: int = 0) -> Row:
    """End a job, with `size` bytes on disk."""
    now = max(now, row.started or row.submitted)
    options = row.options
    return replace(
        row,
        state=State.ENDED,
        ended=now,
        expires=None if options.keep_s is None else now + options.keep_s,
        record=append(row.record, outcome, utc(now)),
        image=row.image if options.keep_photo and isinstance(outcome, Succeeded) else None,
        bytes=size,
    )


def release(row: Row, now: float, note: Message) -> Row:
    """Return a running job to its place in line, uncounted. `note`: the reason."""
    if row.stop_asked:
        return finish(row, now, Stopped())
    record = append(row.record, Progress(stage=Stage.QUEUED, note=note), utc(now))
    return replace(row, state=State.WAITING, attempt=row.attempt - 1, started=None, record=record)


def requeue(row: Row, now: float) -> Row:
    """Return a job to its place in line after a lost attempt; end it after `MAX_ATTEMPTS`."""
    if row.attempt >= MAX_ATTEMPTS and not row.stop_asked:
        error = GenerationFailed("crash_loop", count=row.attempt)
        return finish(row, now, Failed(error))
    note = Message("attempt_lost", attempt=row.attempt + 1, most=MAX_ATTEMPTS)
    return replace(release(row, now, note), attempt=row.attempt)


class JobTable:
    """Table of all jobs. Safe to use from any thread.

    `on_change` is called with each changed row after its commit, in the order of the commits. Every
    method may raise `QueueUnavailable` and `StorageFull`. Then the change may or may not have been
    made; repeating it is safe.
    """

    def __init__(self, database: Database, clock: SteadyClock | None = None) -> None:
        self.database = database
        self.clock = clock or SteadyClock()
        self.on_change: Callable[[Row], None] = lambda _: None

    def insert(self, row: Row, photo: bytes = b"") -> Row:
        """Insert `row` with the next number. `photo`: that of `row.image`."""
        with self.database.serialized():
            with self.database.write() as connection:
                if row.image is not None:
                    _put_photo(connection, row.image, photo)
                connection.execute(update(SEQUENCE).values(number=SEQUENCE.c.number + 1))
                number = connection.scalar(select(SEQUENCE.c.number)) or 0
                row = replace(row, number=number)
                connection.execute(insert(JOBS).values(row.to_columns()))
                _enter_webhook(connection, row)
                if row.params is None and number % PRUNE_INTERVAL == 0:
                    _prune_rejected(connection, row.options.owner)
            self.on_change(row)
        return row

    def get(self, job_id: str) -> Row | None:
        return next(iter(self.get_many([job_id])), None)

    def photo(self, name: str) -> bytes | None:
        with self.database.read() as connection:
            return connection.scalar(select(PHOTOS.c.data).where(PHOTOS.c.name == name))

    def get_many(self, ids: Collection[str]) -> list[Row]:
        return self._read(select(JOBS).where(JOBS.c.id.in_(ids)))

    def list_by_owner(self, owner: str, limit: int) -> list[Row]:
        """The newest jobs of `owner`, newest first."""
        owned = select(JOBS).where(JOBS.c.owner == owner)
        return self._read(owned.order_by(JOBS.c.number.desc()).limit(limit))

    def open_jobs(self) -> list[Row]:
        """The jobs that wait or run, in the order of submission."""
        return self._read(OPEN)

    def recover(self) -> None:
        """Return the running jobs of the last owner to the line; the attempt counts.

        The next events of all open jobs get numbers above those that it kept in memory only.
        """
        with self.database.serialized():
            with self.database.write() as connection:
                rows = [(self._recover(row), row) for row in _rows(connection, OPEN)]
                for row, before in rows:
                    _write(connection, row, before)
            for row, _ in rows:
                self.on_change(row)

    def update(
        self,
        job_id: str,
        state: State,
        change: Transition,
        record: Record | None = None,
        photo: bytes = b"",
    ) -> Row | None:
        """Apply `change` to a job if it is in `state`.

        `record`: its event log in memory. `photo`: that of `image`, if `change` sets it. Returns
        the resulting row; None without one.
        """
        with self.database.serialized():
            with self.database.write() as connection:
                query = select(JOBS).where(JOBS.c.id == job_id).with_for_update()
                row = next(iter(_rows(connection, query)), None)
                if row is not None and row.state is state:
                    before, row = row, replace(row, record=record or row.record)
                    row = change(row, self.clock.now())
                    if row.image not in (None, before.image):
                        _put_photo(connection, row.image, photo)
                    _write(connection, row, before)
            if row is not None:
                self.on_change(row)
        return row

    def import_photos(self, folder: Path) -> None:
        """Move the photos that older versions kept as files in `folder` into the table.

        A file is deleted once its photo is in the table, so a crash loses none. Files without a job
        and the folder are deleted too.
        """
        for path in folder.iterdir() if folder.is_dir() else ():
            referred = select(JOBS.c.id).where(JOBS.c.image == path.name).limit(1)
            with suppress(OSError):  # unreadable files stay
                with self.database.write() as connection:
                    if connection.scalar(referred) is not None:
                        _put_photo(connection, path.name, path.read_bytes())
                path.unlink()
        with suppress(OSError):
            folder.rmdir()

    def _recover(self, row: Row) -> Row:
        row = replace(row, record=renumber(row.record))
        return requeue(row, self.clock.now()) if row.state is State.RUNNING else row

    def _read(self, query: Select[Any]) -> list[Row]:
        with self.database.read() as connection:
            return _rows(connection, query)


def _rows(connection: Connection, query: Select[Any]) -> list[Row]:
    return [Row.from_columns(columns) for columns in connection.execute(query).mappings()]


def _write(connection: Connection, row: Row, before: Row) -> None:
    connection.execute(update(JOBS).where(JOBS.c.id == row.id).values(row.to_columns()))
    if before.image is not None and before.image != row.image:
        drop_photos(connection, [before.image])
    _enter_webhook(connection, row)


def _put_photo(connection: Connection, name: str, photo: bytes) -> None:
    if connection.scalar(select(PHOTOS.c.name).where(PHOTOS.c.name == name)) is None:
        values = {"name": name, "bytes": len(photo), "data": photo}
        connection.execute(insert(PHOTOS).values(values))


def drop_photos(connection: Connection, names: Collection[str]) -> None:
    """Delete these photos unless a job refers to them."""
    referred = select(JOBS.c.id).where(JOBS.c.image == PHOTOS.c.name).exists()
    connection.execute(delete(PHOTOS).where(PHOTOS.c.name.in_(names), ~referred))


def _enter_webhook(connection: Connection, row: Row) -> None:
    """Add the webhook of a job that ends in this transaction to the outbox."""
    if row.state is State.ENDED and row.options.webhook is not None:
        delivery = {"job_id": row.id, "url": row.options.webhook, "tries": 0, "problem": ""}
        connection.execute(insert(OUTBOX).values(delivery | {"state": "due"}))


def _prune_rejected(connection: Connection, owner: str) -> None:
    """Delete the oldest rejected requests of `owner`, with their webhooks."""
    rejected = select(JOBS.c.id).where(
        JOBS.c.owner == owner, JOBS.c.params.is_(None), JOBS.c.state == State.ENDED
    )
    old = list(connection.scalars(rejected.order_by(JOBS.c.number.desc()).offset(MAX_REJECTED)))
    for start in range(0, len(old), 500):  # databases limit what one statement may name
        batch = old[start : start + 500]
        connection.execute(delete(OUTBOX).where(OUTBOX.c.job_id.in_(batch)))
        connection.execute(delete(JOBS).where(JOBS.c.id.in_(batch)))
