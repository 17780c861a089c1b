"""JSON of events, as stored rows have it: what is in use must stay readable."""

import json
from pathlib import Path
from typing import Any

from svd_core import messages
from svd_core.errors import SvdError
from svd_core.events import Event, Failed, Progress, Stage, Stopped, Succeeded, Video


def event_to_json(event: Event) -> dict[str, Any]:
    match event:
        case Progress():
            values = {name: value for name, value in vars(event).items() if name != "preview"}
            return {"is": "progress"} | values | {"note": messages.to_json(event.note)}
        case Succeeded(video):
            notes = [messages.to_json(note) for note in video.notes]
            changed = {"path": str(video.path.absolute()), "notes": notes}
            return {"is": "succeeded"} | vars(video) | changed
        case Failed(error):
            return {"is": "failed"} | error_to_json(error)
        case Stopped():
            return {"is": "stopped"}


def event_from_json(values: dict[str, Any]) -> Event:
    match values.pop("is"):
        case "progress":
            note = messages.from_json(values.get("note"))
            return Progress(**values | {"stage": Stage(values["stage"]), "note": note})
        case "succeeded":
            notes = tuple(map(messages.from_json, values["notes"]))
            parsed = {"path": Path(values["path"]), "notes": notes}
            return Succeeded(Video(**values | parsed))
        case "failed":
            return Failed(error_from_json(values))
        case _:
            return Stopped()


def error_to_json(error: SvdError) -> dict[str, Any]:
    """Class, status, those attributes that JSON can hold, and the values of the message."""
    carried = {name: value for name, value in vars(error).items() if _is_json(value)}
    return {
        "class": type(error).__name__,
        "status": error.status,
        "carried": carried,
        "values": messages.values_to_json(error.message),
    }


def error_from_json(values: dict[str, Any]) -> SvdError:
    """Restore an error. If its class or code is unknown here, message and status remain.

    Rows of older versions have no code and no values.
    """
    kind = next((k for k in subclasses_of(SvdError) if k.__name__ == values["class"]), SvdError)
    carried = values["carried"]
    code, text = carried.get("code", ""), carried["message"]
    message = messages.restore(code, values.get("values", {}), text)
    error = kind.__new__(kind, message)
    vars(error).update(carried | {"message": message})
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
