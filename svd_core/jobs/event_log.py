"""Event log of a job: kept short, and stored as JSON in its row."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from svd_core.errors import SvdError
from svd_core.events import Event, Failed, Progress, Stage, Stopped, Succeeded, Video
from svd_core.jobs.interface import JobEvent

Record = tuple[JobEvent, ...]
"""Never empty, numbers and times grow; only the last event can be an ending."""


def is_finished(record: Record) -> bool:
    return bool(record) and not isinstance(record[-1].event, Progress)


def append(record: Record, event: Event, at: datetime) -> Record:
    """`record` and then `event`, which takes the place of progress that it outdates. Nothing comes
    after an ending, and no time before the one ahead of it. Of previews only the newest is kept,
    and none once there is a video."""
    if not record:
        return (JobEvent(1, at, event),)
    last = record[-1]
    if is_finished(record):
        return record
    kept = record[:-1] if _replaces(event, last.event) else record
    if isinstance(event, Succeeded) or (isinstance(event, Progress) and event.preview):
        kept = tuple(entry.without_preview() for entry in kept)
    return (*kept, JobEvent(last.number + 1, max(at, last.at), event))


def _replaces(event: Event, previous: Event) -> bool:
    """Of one stage only the newest sign of life is worth replaying; steps and notes are."""
    if not isinstance(event, Progress) or not isinstance(previous, Progress):
        return False
    counted = event.stage is Stage.DENOISING and event.step != previous.step
    return (event.stage, event.note) == (previous.stage, previous.note) and not counted


def to_json(record: Record) -> str:
    return json.dumps([[e.number, e.at.timestamp(), event_to_json(e.event)] for e in record])


def from_json(text: str) -> Record:
    return tuple(
        JobEvent(number, datetime.fromtimestamp(at, UTC), event_from_json(values))
        for number, at, values in json.loads(text)
    )


def event_to_json(event: Event) -> dict[str, Any]:
    match event:
        case Progress():
            told = {name: value for name, value in vars(event).items() if name != "preview"}
            return {"is": "progress"} | told
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
            own = {"path": Path(values["path"]), "notes": tuple(values["notes"])}
            return Succeeded(Video(**values | own))
        case "failed":
            return Failed(error_from_json(values))
        case _:
            return Stopped()


def error_to_json(error: SvdError) -> dict[str, Any]:
    """Its class, its status and whatever else it carries that JSON can hold."""
    carried = {name: value for name, value in vars(error).items() if _is_json(value)}
    return {"class": type(error).__name__, "status": error.status, "carried": carried}


def error_from_json(values: dict[str, Any]) -> SvdError:
    """The error as it was. One whose class is not there (any more) keeps sentence and status."""
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
