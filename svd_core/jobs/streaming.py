"""Stream of events from work that reports by callback, for use across processes."""

import threading
from collections.abc import Generator
from contextlib import closing
from queue import SimpleQueue

from svd_core.errors import Cancelled
from svd_core.events import Event, Failed, Progress, Stopped, Succeeded, Video
from svd_core.jobs.interface import Work
from svd_core.jobs.retry import error_to_outcome
from svd_core.params import VideoRequest


def run_as_stream(work: Work, job_id: str, request: VideoRequest) -> Generator[Event]:
    """What `work` reports, then how it ended. Nothing is raised: an error is an event here, since
    exceptions lose their text on the way to another process and events do not.

    `work` runs in a thread of its own. Closing the stream stops it at its next progress, and
    returns when it has stopped.
    """
    events: SimpleQueue[Event] = SimpleQueue()
    stopping = threading.Event()

    def on_progress(progress: Progress) -> None:
        if stopping.is_set():
            raise Cancelled
        events.put(progress)

    def run() -> None:
        try:
            events.put(Succeeded(work(job_id, request, on_progress)))
        except Exception as error:  # noqa: BLE001 - whoever reads the stream waits for its end
            events.put(error_to_outcome(job_id, error))

    thread = threading.Thread(target=run, name="svd-stream", daemon=True)
    thread.start()
    try:
        while isinstance(event := events.get(), Progress):
            yield event
        yield event
    finally:
        stopping.set()
        thread.join()


def raise_errors(events: Generator[Event]) -> Generator[Progress | Video]:
    """`events` as `InlineQueue` takes them: progress, then the video or the error, raised."""
    with closing(events):
        for event in events:
            match event:
                case Progress():
                    yield event
                case Succeeded(video):
                    yield video
                case Failed(error):
                    raise error
                case Stopped():
                    raise Cancelled
