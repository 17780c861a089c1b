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
may run again for the same job, after its process died."""

InlineWork = Callable[[str, VideoRequest], Generator[Progress | Video]]
"""Yields `Progress*`, then the `Video`. Closing the generator stops it and frees the device."""

Outcome = Succeeded | Failed | Stopped
"""The event that ends a job."""

Priority = Literal["normal", "low"]
"""Low ones run when no normal one waits. Within a priority the order is that of submission."""

Fetch = Callable[[str], bytes]
"""Downloads the photo of a URL. Raises `SvdError`, which ends the job."""

Send = Callable[["Job", str], None]
"""Posts the outcome of a job to a URL. After any error except `Undeliverable` it is retried."""


class Undeliverable(Exception):
    """Raised by `Send` if a retry would be useless. Its text is kept as the reason."""


@dataclass(frozen=True)
class RemoteRequest:
    """A request with the URL of its photo, which is fetched while the job waits, not by submit."""

    image_url: str
    params: VideoParams


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Options of a submitted job.

    `start_timeout_s`: seconds the job may wait; then it fails with `StartTimeout`. `max_waiting`:
    refuse the job if more than that many wait. `owner`: id of a key or visitor, whose waiting
    jobs are limited; empty: none. `webhook`: URL to post the outcome to. `keep_s`: seconds the job
    stays after its end, if that is less than the server's limit. `keep_photo`: keep the photo as
    long as the job, not only until its end. `memo`: metadata of the submitter, which no queue
    reads.
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
    """Result of cancelling a job."""

    REMOVED = "removed"
    """The job waited, and will never run."""
    REQUESTED = "requested"
    """The job runs, and stops at its next progress; it may still succeed."""
    TOO_LATE = "too late"
    """The job had already ended."""


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


@dataclass(frozen=True)
class Times:
    """Times of a job in UTC, always in this order, also if the clock was set back.

    `started` is the start of the newest attempt; a job that ended before it ran has none.
    """

    submitted: datetime
    started: datetime | None = None
    ended: datetime | None = None


class Job(Protocol):
    """One request on its way to a video. `id`: 32 hexadecimal digits, unguessable."""

    @property
    def id(self) -> str: ...

    @property
    def params(self) -> VideoParams | None:
        """None for a rejected job, which had no valid parameters."""

    @property
    def options(self) -> JobOptions: ...

    @property
    def times(self) -> Times: ...

    @property
    def last(self) -> Event:
        """The newest event. A waiting job has `Progress(stage=QUEUED)`, `step` jobs ahead of it."""

    @property
    def done(self) -> bool:
        """Whether `last` is Succeeded, Failed or Stopped. Once true it stays so."""

    def events_since(self, seen: int = 0, timeout_s: float = 0.0) -> Sequence[JobEvent]:
        """The events after the one numbered `seen`, without progress that newer progress of its
        stage replaced. Waits up to `timeout_s` for the first one; empty if none came."""

    def events(self) -> Iterator[Event]:
        """`Progress*`, then exactly one of Succeeded, Failed, Stopped; blocks between them.

        May be called any number of times, from any thread, before and after the end. Each call
        replays from the beginning, without progress that newer progress of its stage replaced.
        Dropping the iterator does not change the job, unless the queue says otherwise.
        Raises `ServerStopping` if the queue closes before the job ends, and `TooManyWatchers` if
        newer calls took the place of this one.
        """

    def cancel(self) -> Cancellation:
        """Cancel the job: at once if it waits, at its next progress if it runs. Idempotent."""


class JobQueue(Protocol):
    """Job queue, shared by page, API and command line."""

    def submit(
        self, request: VideoRequest | RemoteRequest, options: JobOptions = DEFAULT_OPTIONS
    ) -> Job:
        """Enqueue `request`. Raises `QueueFull`, and `ServerStopping` once the queue is closed."""

    def ensure_room(self, options: JobOptions = DEFAULT_OPTIONS) -> None:
        """Check the limits before the photo is read or stored.

        Raises what `submit` would raise: `QueueFull`, `ServerStopping`.
        """

    def room(self, owner: str = "") -> int:
        """How many more jobs `owner` may submit now."""

    def reject(self, error: SvdError, options: JobOptions = DEFAULT_OPTIONS) -> Job:
        """Enter a job that has failed with `error`, so that it has an id, an outcome and a webhook.

        Raises `ServerStopping`.
        """

    def get(self, job_id: str) -> Job:
        """The job of that id. Raises `UnknownJob`, also for jobs that were deleted."""

    def refresh(self, job_id: str) -> Job:
        """The job as the table has it now. `get` may miss up to a second of what another server has
        done. Raises `UnknownJob`."""

    def get_cached(self, job_id: str) -> Job | None:
        """The job of that id if it is in the cache of open jobs. Never blocks."""

    def of_owner(self, owner: str, limit: int = 100) -> Sequence[Job]:
        """The newest jobs of `owner`, at most `limit`, newest first."""

    def photo(self, job_id: str) -> bytes | None:
        """The photo of a job; None if it is not kept. Raises `UnknownJob`."""

    def position(self, job_id: str) -> int:
        """The number of jobs ahead of it; 0 if it runs or is done. Raises `UnknownJob`."""

    def length(self) -> int:
        """The number of waiting jobs."""

    def close(self) -> None:
        """Refuse new jobs and stop the work. Returns when it has stopped. Idempotent."""
