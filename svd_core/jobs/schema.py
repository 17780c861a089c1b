"""SQL schema of the job table, with the row of a job and its event log.

The event log is stored as JSON in the row. It is kept short: newer progress replaces older.
"""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    insert,
    inspect,
    select,
    text,
    update,
)

from svd_core.errors import InvalidRequest, InvalidSettings, SvdError
from svd_core.events import Event, Failed, Progress, Stage, Stopped, Succeeded, Video
from svd_core.jobs.database import Database, redacted_url
from svd_core.jobs.interface import JobEvent, JobOptions
from svd_core.params import VideoParams

Record = tuple[JobEvent, ...]
"""Event log of a job: never empty, numbers and times increase, only the last event can be final."""

VERSION = 2
"""Version of the tables. Older ones are migrated, newer ones refused."""

DROPPED = {"version", "worker"}
"""Columns of version 1 in the table of jobs, from when several servers shared it."""

NUMBER_BLOCK = 2**20
"""Events of one job that one process numbers, at most."""


class State(StrEnum):
    """State of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


METADATA = MetaData()

# One row. `number` is the last one given to a job, in the order in which jobs were accepted.
SEQUENCE = Table(
    "svd_line",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
    Column("number", BigInteger, nullable=False),
)

JOBS = Table(
    "svd_jobs",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("number", BigInteger, nullable=False, unique=True),
    Column("state", String(7), nullable=False),
    Column("rank", Integer, nullable=False),  # 0 goes first; of one rank, the lower number
    Column("owner", String(200), nullable=False),
    Column("options", Text, nullable=False),
    Column("params", Text),  # with `CONTINUES` among them
    Column("image", String(64)),  # name of an upload
    Column("image_url", Text),  # of a photo that was not uploaded
    Column("attempt", Integer, nullable=False),
    Column("stop_asked", Boolean, nullable=False),
    Column("submitted", Float, nullable=False),  # all times: seconds since 1970 UTC
    Column("start_by", Float),
    Column("started", Float),
    Column("ended", Float),
    Column("expires", Float),
    Column("bytes", BigInteger, nullable=False),  # of the result on disk
    Column("record", Text, nullable=False),
    Index("svd_jobs_line", "state", "rank", "number"),
    Index("svd_jobs_ended", "ended"),
    Index("svd_jobs_owner", "owner", "number"),
    Index("svd_jobs_image", "image"),
)

OUTBOX = Table(
    "svd_outbox",
    METADATA,
    Column("job_id", String(32), primary_key=True),
    Column("url", Text, nullable=False),
    Column("state", String(9), nullable=False),
    Column("tries", Integer, nullable=False),
    Column("problem", Text, nullable=False),
    Index("svd_outbox_state", "state"),
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
        values = {name: value for name, value in vars(self).items() if name != CONTINUES}
        return values | {
            "rank": self.rank,
            "owner": self.options.owner,
            "options": json.dumps(vars(self.options)),
            "params": None if self.params is None else self._params_json(self.params),
            "start_by": None if timeout is None else self.submitted + timeout,
            "record": to_json(self.record),
        }

    @classmethod
    def from_columns(cls, columns: RowMapping) -> "Row":
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

    def _params_json(self, params: VideoParams) -> str:
        continues = {} if self.continues is None else {CONTINUES: self.continues}
        return json.dumps(params.to_mapping() | continues)


def _params(values: dict[str, Any]) -> VideoParams | None:
    """None for parameters that an older version accepted and this one does not."""
    try:
        return VideoParams(**values)
    except (InvalidRequest, TypeError):
        return None


def create_tables(database: Database) -> None:
    """Create missing tables and indexes, and migrate older tables.

    Raises `InvalidSettings` for tables of a newer version.
    """
    with database.first_contact(), database.write() as connection:
        METADATA.create_all(connection)
        for index in JOBS.indexes:  # an older table may lack one
            index.create(connection, checkfirst=True)
        version = connection.scalar(select(SEQUENCE.c.version))
        if version is None:
            connection.execute(insert(SEQUENCE).values(id=1, version=VERSION, number=0))
        elif version < VERSION:
            _migrate(connection)
        elif version > VERSION:
            raise InvalidSettings(
                f"A newer version of the program made the job table at "
                f"{redacted_url(database.url)}; start that one, or set SVD_DATABASE_URL to another "
                "place."
            )


def _migrate(connection: Connection) -> None:
    for column in inspect(connection).get_columns(JOBS.name):
        if column["name"] in DROPPED:
            connection.execute(text(f"ALTER TABLE {JOBS.name} DROP COLUMN {column['name']}"))
    connection.execute(update(SEQUENCE).values(version=VERSION))


def is_finished(record: Record) -> bool:
    """Whether the last event is final."""
    return bool(record) and not isinstance(record[-1].event, Progress)


def append(record: Record, event: Event, at: datetime) -> Record:
    """Append `event` to `record`, in place of progress that it outdates.

    Nothing is appended after a final event. Times never decrease. Only the newest preview is kept,
    and none once there is a video.
    """
    if not record:
        return (JobEvent(1, at, event),)
    last = record[-1]
    if is_finished(record):
        return record
    kept = record[:-1] if _replaces(event, last.event) else record
    if isinstance(event, Succeeded) or (isinstance(event, Progress) and event.preview):
        kept = tuple(entry.without_preview() for entry in kept)
    return (*kept, JobEvent(last.number + 1, max(at, last.at), event))


def renumber(record: Record) -> Record:
    """Give the last event a number above all that the last process gave in memory only."""
    block = record[-1].number // NUMBER_BLOCK + 1
    return (*record[:-1], replace(record[-1], number=block * NUMBER_BLOCK))


def _replaces(event: Event, previous: Event) -> bool:
    """Whether `event` outdates `previous`: both are of the same stage, note and denoising step."""
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


def event_to_json(event: Event) -> dict[str, Any]:
    match event:
        case Progress():
            values = {name: value for name, value in vars(event).items() if name != "preview"}
            return {"is": "progress"} | values
        case Succeeded(video):
            return {"is": "succeeded"} | vars(video) | {"path": str(video.path.absolute())}
        case Failed(error):
            return {"is": "failed"} | error_to_json(error)
        case Stopped():
            return {"is": "stopped"}


def event_from_json(values: dict[str, Any]) -> Event:
    match values.pop("is"):
        case "progress":
            return Progress(**values | {"stage": Stage(values["stage"])})
        case "succeeded":
            parsed = {"path": Path(values["path"]), "notes": tuple(values["notes"])}
            return Succeeded(Video(**values | parsed))
        case "failed":
            return Failed(error_from_json(values))
        case _:
            return Stopped()


def error_to_json(error: SvdError) -> dict[str, Any]:
    """Class, status, and those attributes that JSON can hold."""
    carried = {name: value for name, value in vars(error).items() if _is_json(value)}
    return {"class": type(error).__name__, "status": error.status, "carried": carried}


def error_from_json(values: dict[str, Any]) -> SvdError:
    """Restore an error. If its class does not exist any more, message and status remain."""
    kind = next((k for k in subclasses_of(SvdError) if k.__name__ == values["class"]), SvdError)
    error = kind.__new__(kind, values["carried"]["message"])
    vars(error).update(values["carried"])
    if error.status != values["status"]:
        error.status = values["status"]
    return error


def subclasses_of(kind: type[SvdError]) -> list[type[SvdError]]:
    return [kind] + [deeper for child in kind.__subclasses__() for deeper in subclasses_of(child)]


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
