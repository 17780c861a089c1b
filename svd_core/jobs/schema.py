"""SQL schema of the job table, with the row of a job and its event log.

The row stores the event log as JSON, kept short: newer progress replaces older.
"""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from svd_core.database import Database, redacted_url
from svd_core.errors import InvalidRequest, InvalidSettings
from svd_core.events import (
    Event,
    JobEvent,
    Progress,
    Stage,
    Succeeded,
    event_from_json,
    event_to_json,
)
from svd_core.jobs.interface import JobOptions
from svd_core.params import VideoParams

Record = tuple[JobEvent, ...]
"""Event log of a job: not empty, with increasing numbers and times; only the last can be final."""

VERSION = 3
"""Version of the tables. Older ones are migrated, newer ones refused."""

DROPPED = {"version", "worker"}
"""Columns of version 1, in which several servers shared the table."""

NUMBER_BLOCK = 2**20
"""Most events of one job that one process numbers."""


class State(StrEnum):
    """State of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


METADATA = sa.MetaData()

# One row. `number` is that of the job accepted last.
SEQUENCE = sa.Table(
    "svd_line",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
)

JOBS = sa.Table(
    "svd_jobs",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False, unique=True),
    sa.Column("state", sa.String(7), nullable=False),
    sa.Column("rank", sa.Integer, nullable=False),  # 0 goes first; of one rank, the lower number
    sa.Column("owner", sa.String(200), nullable=False),
    sa.Column("options", sa.Text, nullable=False),
    sa.Column("params", sa.Text),  # with `CONTINUES` among them
    sa.Column("image", sa.String(64)),  # name of its photo
    sa.Column("image_url", sa.Text),  # of a photo that was not uploaded
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("stop_asked", sa.Boolean, nullable=False),
    sa.Column("submitted", sa.Float, nullable=False),  # all times: seconds since 1970 UTC
    sa.Column("start_by", sa.Float),
    sa.Column("started", sa.Float),
    sa.Column("ended", sa.Float),
    sa.Column("expires", sa.Float),
    sa.Column("bytes", sa.BigInteger, nullable=False),  # of the result on disk
    sa.Column("record", sa.Text, nullable=False),
    sa.Index("svd_jobs_line", "state", "rank", "number"),
    sa.Index("svd_jobs_ended", "ended"),
    sa.Index("svd_jobs_owner", "owner", "number"),
    sa.Index("svd_jobs_image", "image"),
)

# Photos of jobs, each under the SHA-256 of its bytes, so that none is stored twice.
PHOTOS = sa.Table(
    "svd_photos",
    METADATA,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("bytes", sa.Integer, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Index("svd_photos_bytes", "name", "bytes"),  # sums read this instead of the photos
)

OUTBOX = sa.Table(
    "svd_outbox",
    METADATA,
    sa.Column("job_id", sa.String(32), primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("state", sa.String(9), nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("problem", sa.Text, nullable=False),
    sa.Index("svd_outbox_state", "state"),
)

CONTINUES = "continues"
"""Key in the column `params` beside the settings: id of the job whose video is extended."""

RANKS = {"normal": 0, "low": 1}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One job of the table."""

    id: str
    record: Record
    options: JobOptions
    params: VideoParams | None
    submitted: float
    continues: str | None = None
    number: int = 0
    state: State = State.WAITING
    image: str | None = None
    image_url: str | None = None
    attempt: int = 0
    stop_asked: bool = False
    started: float | None = None
    ended: float | None = None
    expires: float | None = None
    bytes: int = 0

    @property
    def rank(self) -> int:
        return RANKS[self.options.priority]

    def to_columns(self) -> dict[str, Any]:
        timeout = self.options.start_timeout_s
        values = dict(vars(self))
        more = {} if (continues := values.pop(CONTINUES)) is None else {CONTINUES: continues}
        return values | {
            "rank": self.rank,
            "owner": self.options.owner,
            "options": json.dumps(vars(self.options)),
            "params": self.params and json.dumps(self.params.to_mapping() | more),
            "start_by": None if timeout is None else self.submitted + timeout,
            "record": to_json(self.record),
        }

    @classmethod
    def from_columns(cls, columns: sa.RowMapping) -> "Row":
        values = {n: columns[n] for n in cls.__dataclass_fields__ if n != CONTINUES}
        params = json.loads(values["params"] or "{}")
        parsed = {
            "state": State(values["state"]),
            "options": JobOptions(**json.loads(values["options"])),
            CONTINUES: params.pop(CONTINUES, None),
            "params": _params(params) if params else None,
            "record": from_json(values["record"]),
        }
        return cls(**values | parsed)


def _params(values: dict[str, Any]) -> VideoParams | None:
    """None for parameters that only an older version accepted."""
    try:
        return VideoParams(**values)
    except (InvalidRequest, TypeError):
        return None


def create_tables(database: Database) -> None:
    """Create missing tables and indexes, and migrate older tables.

    Raises `InvalidSettings` for tables of a newer version.
    """
    with database.first_contact():
        database.adopt_layout()
    with database.first_contact(), database.write() as connection:
        METADATA.create_all(connection)
        for index in JOBS.indexes:  # an older table may lack one
            index.create(connection, checkfirst=True)
        version = connection.scalar(sa.select(SEQUENCE.c.version))
        if version is None:
            connection.execute(sa.insert(SEQUENCE).values(id=1, version=VERSION, number=0))
        elif version < VERSION:
            _migrate(connection)
        elif version > VERSION:
            raise InvalidSettings("database_too_new", where=redacted_url(database.url))


def _migrate(connection: sa.Connection) -> None:
    for column in sa.inspect(connection).get_columns(JOBS.name):
        if column["name"] in DROPPED:
            connection.execute(sa.text(f"ALTER TABLE {JOBS.name} DROP COLUMN {column['name']}"))
    connection.execute(sa.update(SEQUENCE).values(version=VERSION))


def is_finished(record: Record) -> bool:
    """Whether the last event is final."""
    return bool(record) and not isinstance(record[-1].event, Progress)


def append(record: Record, event: Event, at: datetime, number: int = 0) -> Record:
    """Append `event` to `record`, replacing progress that it outdates.

    Nothing follows a final event. Times never decrease. Only the newest preview is kept, and none
    after a success. `number`: minimum for the number of the event.
    """
    if not record:
        return (JobEvent(1, at, event),)
    last = record[-1]
    if is_finished(record):
        return record
    kept = record[:-1] if _replaces(event, last.event) else record
    if isinstance(event, Succeeded) or (isinstance(event, Progress) and event.preview):
        kept = tuple(entry.without_preview() for entry in kept)
    return (*kept, JobEvent(max(number, last.number + 1), max(at, last.at), event))


def renumber(record: Record) -> Record:
    """Give the last event a number above all that the last process kept in memory only."""
    block = record[-1].number // NUMBER_BLOCK + 1
    return (*record[:-1], replace(record[-1], number=block * NUMBER_BLOCK))


def _replaces(event: Event, previous: Event) -> bool:
    """Whether `event` outdates `previous`: progress of the same stage, note and denoising step."""
    if not isinstance(event, Progress) or not isinstance(previous, Progress):
        return False
    counted = event.stage is Stage.DENOISING and event.step != previous.step
    return (event.stage, event.note) == (previous.stage, previous.note) and not counted


def to_json(record: Record) -> str:
    """Encode an event log."""
    return json.dumps([[e.number, e.at.timestamp(), event_to_json(e.event)] for e in record])


def from_json(text: str) -> Record:
    """Decode an event log."""
    return tuple(
        JobEvent(number, datetime.fromtimestamp(at, UTC), event_from_json(values))
        for number, at, values in json.loads(text)
    )
