"""What submitters of jobs give and get: requests, options and times."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

from svd_core.params import VideoParams

Fetch = Callable[[str], bytes]
"""Downloads the photo of a URL. Raises `SvdError`, which ends the job."""


@dataclass(frozen=True)
class RemoteRequest:
    """A request with the URL of its photo, which is fetched while the job waits, not by submit."""

    image_url: str
    params: VideoParams


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Options of a submitted job.

    `priority`: low ones run when no normal one waits. Within a priority the order is that of
    submission. `start_timeout_s`: seconds the job may wait; then it fails with `StartTimeout`.
    `max_waiting`: refuse the job if more than that many wait. `owner`: id of a key or visitor,
    whose waiting jobs are limited; empty: none. `webhook`: URL to post the outcome to. `keep_s`:
    seconds the job stays after its end, if that is less than the server's limit. `keep_photo`: keep
    the photo as long as the job, not only until its end. `memo`: metadata of the submitter, which
    no queue reads.
    """

    priority: Literal["normal", "low"] = "normal"
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
class Times:
    """Times of a job in UTC, always in this order, also if the clock was set back.

    `started` is the start of the newest attempt; a job that ended before it ran has none.
    """

    submitted: datetime
    started: datetime | None = None
    ended: datetime | None = None
