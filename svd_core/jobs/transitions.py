"""State transitions of one row, inside a transaction of the caller."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from svd_core.events import Failed, Progress, Stage, Stopped, Succeeded
from svd_core.jobs.event_log import append
from svd_core.jobs.schema import JOBS, OUTBOX, SEQUENCE, Row, State

Outcome = Succeeded | Failed | Stopped

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
