"""Executors: each runs one job at a time, as a stream of events, driven from a thread of its own.

The queue alone retries. An executor that cannot go on raises `ExecutorLost`, and the job goes back
in line.
"""

import threading
from collections.abc import Callable, Generator
from queue import SimpleQueue
from typing import Protocol

from svd_core.errors import Cancelled
from svd_core.events import Event, Progress, Succeeded
from svd_core.jobs.interface import Work
from svd_core.jobs.retry import error_to_outcome
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

    def run(self, job_id: str, request: VideoRequest) -> Generator[Event]:
        """Yield `Progress*`, then exactly one of Succeeded, Failed, Stopped.

        Closing the generator stops the work and returns when it has stopped. Raises `ExecutorLost`.
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


def run_as_stream(work: Work, job_id: str, request: VideoRequest) -> Generator[Event]:
    """Stream the progress of `work`, then its outcome. Errors are events here, never raised:
    exceptions lose their text on the way to another process, and events do not.

    `work` runs in its own thread. After each progress it waits until the reader asks for more, so
    that closing the stream stops it at that progress. Closing returns when it has stopped.
    """
    events: SimpleQueue[Event] = SimpleQueue()
    turns = threading.Semaphore(0)
    stopping = threading.Event()

    def on_progress(progress: Progress) -> None:
        events.put(progress)
        turns.acquire()
        if stopping.is_set():
            turns.release()  # for later calls, which nobody reads any more
            raise Cancelled

    def run() -> None:
        try:
            events.put(Succeeded(work(job_id, request, on_progress)))
        except Exception as error:  # noqa: BLE001 - the reader of the stream waits for its end
            events.put(error_to_outcome(job_id, error))

    thread = threading.Thread(target=run, name="svd-stream", daemon=True)
    thread.start()
    try:
        while isinstance(event := events.get(), Progress):
            yield event
            turns.release()
        yield event
    finally:
        stopping.set()
        turns.release()
        thread.join()
