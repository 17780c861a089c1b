"""Work as a stream of events: `Progress*`, then exactly one outcome, errors included."""

import logging
import threading
from collections.abc import Callable, Generator
from queue import SimpleQueue

from svd_core.errors import Cancelled, GenerationFailed, OutOfMemory, SvdError, busy_if_passing
from svd_core.events import Event, Failed, OnProgress, Progress, Stopped, Succeeded, Video
from svd_core.params import VideoRequest

Work = Callable[[str, VideoRequest, OnProgress], Video]
"""Makes the video of (job id, request). It stops when the progress callback raises `Cancelled`, and
may run again for the same job after its process died."""

EventStream = Callable[[str, VideoRequest], Generator[Event | None]]
"""Yields the events of (job id, request), or None to let its reader stop it. Closing the generator
stops the work and frees the device."""

log = logging.getLogger(__name__)


def run_as_stream(work: Work, job_id: str, request: VideoRequest) -> Generator[Event]:
    """Stream the progress of `work`, then its outcome. Errors are events, since raised ones lose
    their text on the way to another process.

    `work` runs in its own thread. After each progress it waits until the reader asks for more, so
    closing the stream stops it there. Closing returns when it has stopped.
    """
    events: SimpleQueue[Event] = SimpleQueue()
    turns = threading.Semaphore(0)
    stopping = threading.Event()

    def on_progress(progress: Progress) -> None:
        events.put(progress)
        turns.acquire()
        if stopping.is_set():
            turns.release()  # for other threads and later calls
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


def error_to_outcome(job_id: str, error: Exception) -> Failed | Stopped:
    """The outcome of a job whose work raised `error`. Unexpected errors are logged in full.

    The queue may retry a job with a `passing` error.
    """
    if isinstance(error, Cancelled):
        return Stopped()
    known = isinstance(error, OutOfMemory) or getattr(error, "passing", False)
    if not known and (busy := busy_if_passing(error)) is not None:
        log.warning("Job %s failed for lack of resources and may be retried: %s", job_id, error)
        return Failed(busy)
    if isinstance(error, SvdError):
        # The error is kept for hours, and its traceback would keep all objects in memory.
        error.__cause__ = error.__context__ = None
        return Failed(error.with_traceback(None))
    log.error("Job %s failed unexpectedly. Please report this.", job_id, exc_info=error)
    return Failed(GenerationFailed("unexpected", number=job_id[:8]))
