"""Protocols of the job queue, for page, API and command line."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Literal, Protocol

from svd_core.errors import SvdError
from svd_core.events import Event, Failed, OnProgress, Progress, Stopped, Succeeded, Video
from svd_core.params import VideoParams, VideoRequest

Work = Callable[[str, VideoRequest, OnProgress], Video]
"""Makes the video of (job id, request). It stops when the progress callback raises `Cancelled`. It
may be done again for the same job, after the process that did it died."""

InlineWork = Callable[[str, VideoRequest], Generator[Progress | Video]]
"""Yields `Progress*`, then the `Video`. Closing the generator stops it and frees the device."""

Outcome = Succeeded | Failed | Stopped
"""The event that ends a job."""

Priority = Literal["normal", "low"]
"""Low ones run when no normal one waits; within a priority the order is that of submission."""

Fetch = Callable[[str], bytes]
"""Gets the photo of an address. Raises `SvdError`, which becomes the end of the job."""

Send = Callable[["Job", str], None]
"""Tells the address that the job has ended. Whatever it raises has it tried again later, save
`Undeliverable`."""


class Undeliverable(Exception):
    """Raised by `Send` where trying again would be of no use. Its text is kept as the reason."""


@dataclass(frozen=True)
class RemoteRequest:
    """A request whose photo lies at an address, fetched while the job waits, not by submit."""

    image_url: str
    params: VideoParams


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """What a submitter may ask of the queue.

    `start_timeout_s`: seconds the job may wait; then it fails by `StartTimeout`. `max_waiting`:
    refuse the job if more than so many wait already. `owner`: whose job it is (id of a key, empty:
    nobody's), who may have only so many jobs waiting. `webhook`: address to tell the end to.
    `keep_s`: seconds the job stays after its end, if that is less than the server's own.
    `keep_photo`: keep the photo as long as the job, not only until its end. `memo`: anything the
    submitter wants to find again with the job; no queue reads it.
    """

    priority: Priority = "normal"
    start_timeout_s: float | None = None
    max_waiting: int | None = None
    owner: str = ""
    webhook: str | None = None
    keep_s: float | None = None
    keep_photo: bool = False
    memo: str = ""


DEFAULT_OPTIONS = JobOptions()


class Cancellation(StrEnum):
    """What came of the wish to cancel a job."""

    REMOVED = "removed"
    """It waited; it will never run."""
    REQUESTED = "requested"
    """It runs, and ends at its next progress; it may also still succeed."""
    TOO_LATE = "too late"
    """It had ended before, in whatever way."""


@dataclass(frozen=True)
class JobEvent:
    """An event of a job, with the time it came (UTC). `number` grows from each to the next."""

    number: int
    at: datetime
    event: Event

    def without_preview(self) -> "JobEvent":
        if isinstance(self.event, Progress) and self.event.preview:
            return replace(self, event=replace(self.event, preview=None))
        return self


@dataclass(frozen=True)
class Times:
    """Of a job, in UTC, in this order whatever the clock does. `started` belongs to the attempt
    under way; a job that is over without having run has none."""

    submitted: datetime
    started: datetime | None = None
    ended: datetime | None = None


class Job(Protocol):
    """One request on its way to a video. `id`: 32 hexadecimal digits, not to be guessed."""

    @property
    def id(self) -> str: ...

    @property
    def params(self) -> VideoParams | None:
        """None for a job that was rejected: there were none that hold together."""

    @property
    def options(self) -> JobOptions: ...

    @property
    def times(self) -> Times: ...

    @property
    def last(self) -> Event:
        """The newest event; a waiting job's is `Progress(stage=QUEUED)` with those ahead of it."""

    @property
    def done(self) -> bool:
        """Whether `last` is Succeeded, Failed or Stopped. Once true it stays so."""

    def events_since(self, seen: int = 0, timeout_s: float = 0.0) -> Sequence[JobEvent]:
        """What came after the event numbered `seen`, less the progress that newer progress of its
        stage replaced. Waits up to `timeout_s` for something to come; empty if nothing did."""

    def events(self) -> Iterator[Event]:
        """`Progress*`, then exactly one of Succeeded, Failed, Stopped; blocks between them.

        May be called any number of times, from any thread, before and after the end. Each call
        replays from the beginning, less the progress that newer progress of its stage replaced.
        Dropping the iterator leaves the job alone, except where the queue says otherwise.
        Raises `ServerStopping` if the queue closes before the job ends, and `TooManyWatchers` where
        newer calls took the place of this one.
        """

    def cancel(self) -> Cancellation:
        """Ask the job to end: at once if it waits, at its next progress if it runs. Idempotent."""


class JobQueue(Protocol):
    def submit(
        self, request: VideoRequest | RemoteRequest, options: JobOptions = DEFAULT_OPTIONS
    ) -> Job:
        """Put `request` in line. Raises `QueueFull`, `ServerStopping` once the queue is closed."""

    def ensure_room(self, options: JobOptions = DEFAULT_OPTIONS) -> None:
        """Raise what `submit` would raise for a job with these options, before anything is spent on
        its photo: `QueueFull`, `ServerStopping`."""

    def room(self, owner: str = "") -> int:
        """How many more jobs of `owner` would be taken now, for callers that submit several."""

    def reject(self, error: SvdError, options: JobOptions = DEFAULT_OPTIONS) -> Job:
        """Enter a job that has failed by `error`, so that it has an id, an end and a webhook.

        Raises `ServerStopping`."""

    def get(self, job_id: str) -> Job:
        """The job of that id. Raises `UnknownJob`, also for jobs that finished long ago."""

    def refresh(self, job_id: str) -> Job:
        """The same as the table has it now, of which `get` hears up to a second later where another
        server has done something. Raises `UnknownJob`."""

    def get_cached(self, job_id: str) -> Job | None:
        """The job of that id if it is open and this process has seen it; never waits."""

    def of_owner(self, owner: str, limit: int = 100) -> Sequence[Job]:
        """The newest jobs of `owner`, at most `limit`, the newest first."""

    def photo(self, job_id: str) -> bytes | None:
        """The photo of a job, None if it is not kept. Raises `UnknownJob`."""

    def position(self, job_id: str) -> int:
        """How many jobs go before it; 0 if it runs or is done. Raises `UnknownJob`."""

    def length(self) -> int:
        """How many jobs wait, the running ones not counted."""

    def close(self) -> None:
        """Take no more jobs and stop working. Returns when the work has stopped. Idempotent."""
