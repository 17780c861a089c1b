"""Executors: each runs one job at a time, as a stream of events, driven from a thread of its own.

The queue alone retries. An executor that cannot go on raises `ExecutorLost`, and the job goes back
in line.
"""

from collections.abc import Callable, Generator
from typing import Protocol

from svd_core.event_stream import Work, run_as_stream
from svd_core.events import Event
from svd_core.params import VideoRequest


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
        """Get ready for a job; may block, as while a machine starts.

        Returns False once `is_needed()` is false: no job waits, or the queue closes. Raises
        `SvdError` if no worker can ever run jobs; the first job in line fails with it.
        """

    def run(self, job_id: str, request: VideoRequest) -> Generator[Event | None]:
        """Yield `Progress*`, then exactly one of Succeeded, Failed, Stopped.

        It may yield None while there is no news, so that the caller can stop it then. Closing the
        generator stops the work; no result is written after that. Raises `ExecutorLost`.
        """

    def close(self) -> None:
        """Release the worker. The queue drives the executor no more."""


class LocalExecutor:
    """Runs `work` in this process."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def prepare(self, is_needed: Callable[[], bool]) -> bool:  # noqa: ARG002 - the protocol's
        return True

    def run(self, job_id: str, request: VideoRequest) -> Generator[Event]:
        return run_as_stream(self._work, job_id, request)

    def close(self) -> None:
        pass
