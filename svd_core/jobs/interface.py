"""Interfaces of the queue: requests and options of submitters, and the protocol of executors.

The queue alone retries. An executor that cannot go on raises `ExecutorLost`, and the job goes back
in line.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal, Protocol

from svd_core.events import Event
from svd_core.params import VideoParams, VideoRequest

Fetch = Callable[[str], bytes]
"""Downloads the photo at a URL. Raises `SvdError`, which ends the job."""


@dataclass(frozen=True)
class RemoteRequest:
    """A request with the URL of its photo, which is fetched while the job waits."""

    image_url: str
    params: VideoParams


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Options of a submitted job.

    `priority`: low ones run when no normal one waits; within a priority, in the order of
    submission. `start_timeout_s`: seconds until a waiting job fails with `StartTimeout`.
    `max_waiting`: refuse the job if more than that many wait. `owner`: id of a key or visitor,
    whose waiting jobs are limited; empty: none. `webhook`: URL to post the outcome to. `keep_s`:
    seconds to keep the finished job, within the server's limit. `keep_photo`: keep the photo with
    the finished job. `memo`: metadata of the submitter, which no queue reads.
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
    """The job waited and will never run."""
    REQUESTED = "requested"
    """The job stops at its next progress; it may still succeed."""
    TOO_LATE = "too late"
    """The job had already ended."""


@dataclass(frozen=True)
class Times:
    """Times of a job in UTC, always in this order. `started`: of the newest attempt, if any."""

    submitted: datetime
    started: datetime | None = None
    ended: datetime | None = None


class ExecutorLost(Exception):
    """The worker of an executor is gone.

    `counted`: whether the attempt counts. A crash does; a drained or refused worker does not.
    """

    def __init__(self, reason: str, *, counted: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.counted = counted


class Executor(Protocol):
    """Runs one job at a time."""

    def prepare(self, is_needed: Callable[[], bool]) -> bool:
        """Get ready for a job. May block, for example while a machine starts.

        Returns False once `is_needed()` is false: no job waits, or the queue closes. Raises
        `SvdError` if no worker can run jobs; the first job in line fails with it.
        """

    def run(self, job_id: str, request: VideoRequest) -> Generator[Event | None]:
        """Yield `Progress*`, then exactly one of Succeeded, Failed, Stopped.

        It may yield None to let the caller stop it. Closing the generator stops the work; no result
        is written after that. Raises `ExecutorLost`.
        """

    def close(self) -> None:
        """Release the worker. The queue makes no further calls."""
