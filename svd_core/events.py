"""Job events: any number of `Progress`, then exactly one of Succeeded, Failed, Stopped."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from svd_core.errors import SvdError


class Stage(StrEnum):
    """In the order a job passes through them."""

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

    `step` of `total`: denoising steps done, bytes loaded, or 0 of 0 where nothing is counted; for
    QUEUED `step` is the number of jobs ahead. `elapsed_s`: seconds since work on the job began.
    `remaining_s`: expected seconds to the end, None while unknown. `note`: a `Message` that the
    user should see, e.g. that memory ran out and a smaller plan is tried. `preview`: now and then,
    how all frames look so far: a small moving WebP of at most 150 kB; it is in memory only.
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
        """How much is done, 0..1: by time where it is known, else by count; None if by neither."""
        if self.stage is Stage.QUEUED:
            return None
        if self.remaining_s is not None and self.elapsed_s + self.remaining_s > 0:
            return self.elapsed_s / (self.elapsed_s + self.remaining_s)
        return min(self.step / self.total, 1.0) if self.total else None


@dataclass(frozen=True, kw_only=True)
class Video:
    """A finished video on disk. `width`, `height` in pixels; `fps` is the playback rate, and
    `num_frames` counts what plays: in-between frames too.

    `notes`: what was changed (clamped fps, smaller memory plan), as `Message`s. `motion`:
    see `motion_meter.Level`; empty where it was not measured. `peak_memory`: most bytes held while
    it was made, of the GPU if there is one, else of the process since its start; None where not
    known."""

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
"""Called from the thread that works; raising `Cancelled` in it stops the work at that point."""
