"""Job events: any number of `Progress`, then exactly one of Succeeded, Failed, Stopped.

The table of jobs stores them as JSON. Rows of older versions must stay readable.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from svd_core import messages
from svd_core.errors import SvdError, subclasses_of


class Stage(StrEnum):
    """Stages of a job, in their order."""

    QUEUED = "queued"
    FETCHING = "fetching"
    LOADING = "loading"
    ENCODING = "encoding"
    DENOISING = "denoising"
    DECODING = "decoding"
    WRITING = "writing"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress report of a job.

    `step` of `total`: denoising steps done, bytes loaded, or 0 of 0 if nothing is counted. For
    QUEUED, `step` is the number of jobs ahead. `elapsed_s`: seconds since the start of the work.
    `remaining_s`: expected seconds to the end, None if unknown. `note`: a `Message` for the user,
    e.g. that a smaller memory plan is tried. `preview`: now and then an animated WebP of all frames
    so far, at most 150 kB, in memory only.
    """

    stage: Stage
    step: int = 0
    total: int = 0
    elapsed_s: float = 0.0
    remaining_s: float | None = None
    note: str | None = None
    preview: bytes | None = field(default=None, repr=False)

    @property
    def share(self) -> float | None:
        """Share that is done, 0..1: by time if that is known, else by count, else None."""
        if self.stage is Stage.QUEUED:
            return None
        if self.remaining_s is not None and self.elapsed_s + self.remaining_s > 0:
            return self.elapsed_s / (self.elapsed_s + self.remaining_s)
        return min(self.step / self.total, 1.0) if self.total else None


@dataclass(frozen=True, kw_only=True)
class Video:
    """A finished video on disk.

    `width`, `height`: pixels. `fps`: playback rate. `num_frames`: includes in-between frames.
    `notes`: `Message`s about changes, such as a clamped fps. `motion`: see `motion_meter.Level`;
    empty if not measured. `peak_memory`: most bytes in use, of the GPU or else of the process since
    its start; None if unknown.
    """

    path: Path
    width: int
    height: int
    num_frames: int
    fps: int
    seed: int
    model: str
    elapsed_s: float
    notes: tuple[str, ...] = ()
    motion: str = ""
    peak_memory: int | None = None

    @property
    def duration_s(self) -> float:
        return self.num_frames / self.fps


@dataclass(frozen=True)
class Succeeded:
    video: Video


@dataclass(frozen=True)
class Failed:
    error: SvdError


@dataclass(frozen=True)
class Stopped:
    pass


Outcome = Succeeded | Failed | Stopped
"""The event that ends a job."""

Event = Progress | Outcome


@dataclass(frozen=True)
class JobEvent:
    """An event of a job, with its time (UTC). The numbers of one job increase."""

    number: int
    at: datetime
    event: Event

    def without_preview(self) -> "JobEvent":
        if isinstance(self.event, Progress) and self.event.preview:
            return replace(self, event=replace(self.event, preview=None))
        return self


OnProgress = Callable[[Progress], None]
"""Called from the working thread. It stops the work by raising `Cancelled`."""


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
    """Class and status, the attributes that JSON can hold, and the values of the message."""
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


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
