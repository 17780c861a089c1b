"""What page, API and command line may rely on, whichever queue runs behind it."""

from collections.abc import Iterator
from typing import Protocol

from svd_core.events import Event
from svd_core.params import VideoParams, VideoRequest


class Job(Protocol):
    """One request on its way to a video. `id`: 32 hexadecimal digits, not to be guessed."""

    @property
    def id(self) -> str: ...

    @property
    def params(self) -> VideoParams: ...

    @property
    def last(self) -> Event:
        """The newest event; a new job's is `Progress(stage=QUEUED)`."""

    @property
    def done(self) -> bool:
        """Whether `last` is Succeeded, Failed or Stopped. Once true it stays so."""

    def events(self) -> Iterator[Event]:
        """`Progress*`, then exactly one of Succeeded, Failed, Stopped; blocks between them.

        May be called any number of times, from any thread, before and after the end. Each call
        replays from the beginning, less the progress that newer progress of its stage replaced.
        Dropping the iterator leaves the job alone, except where the queue says otherwise.
        """

    def cancel(self) -> None:
        """Ask the job to end: at once if it waits, at its next progress if it runs. Idempotent."""


class JobQueue(Protocol):
    def submit(self, request: VideoRequest) -> Job:
        """Put `request` in line. Raises `QueueFull`, also once the queue is closed."""

    def get(self, job_id: str) -> Job:
        """The job of that id. Raises `UnknownJob`, also for jobs that finished long ago."""

    def position(self, job_id: str) -> int:
        """How many jobs go before it; 0 if it runs or is done. Raises `UnknownJob`."""

    def close(self) -> None:
        """End every job and take no more. Returns when the work has stopped. Idempotent."""
