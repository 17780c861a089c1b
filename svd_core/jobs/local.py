"""The queue of one process: jobs wait in memory, one thread makes their videos in turn."""

import logging
import threading
from collections import deque
from collections.abc import Callable

from svd_core.errors import Cancelled, InvalidImage, QueueFull, ServerStopping, SvdError
from svd_core.events import Failed, OnProgress, Progress, Stage, Stopped, Succeeded, Video
from svd_core.jobs.protocol import USUAL, Fetch, JobOptions, RemoteRequest
from svd_core.jobs.shelf import Shelf
from svd_core.jobs.ticket import Ticket, ending_of
from svd_core.params import VideoRequest

Work = Callable[[str, VideoRequest, OnProgress], Video]
"""Makes the video of (job id, request). It stops when the progress callback raises `Cancelled`."""

log = logging.getLogger(__name__)


def no_fetch(_: str) -> bytes:
    raise InvalidImage("This server fetches no addresses; send the photo itself.")


class LocalQueue:
    """Implements `JobQueue`.

    `max_queue`: jobs that may wait, the running one not counted. `keep_s`: seconds a finished job
    is remembered. `patience_s`: seconds `close` waits for the running work to notice.
    """

    def __init__(
        self,
        work: Work,
        max_queue: int,
        *,
        fetch: Fetch = no_fetch,
        keep_s: float = 86_400.0,
        patience_s: float = 10.0,
    ) -> None:
        self._make = work
        self._fetch = fetch
        self._max_queue = max_queue
        self._patience_s = patience_s
        self._shelf = Shelf(keep_s)
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Ticket, VideoRequest | RemoteRequest]] = deque()
        self._running: Ticket | None = None
        self._closed = False
        # A daemon, so that work which never looks up cannot keep the process alive.
        self._thread = threading.Thread(target=self._work, name="svd-worker", daemon=True)
        self._thread.start()

    def submit(self, request: VideoRequest | RemoteRequest, options: JobOptions = USUAL) -> Ticket:
        with self._changed:
            if self._closed:
                raise ServerStopping("The server is stopping; please try again in a minute.")
            most = self._max_queue
            if options.max_waiting is not None:
                most = min(most, options.max_waiting)
            if len(self._waiting) >= most:
                raise QueueFull(
                    f"{len(self._waiting)} videos are waiting already, which is as many as fit; "
                    "please try again in a few minutes."
                )
            ticket = Ticket(request.params, self._on_cancel, options)
            self._shelf.put(ticket)
            self._waiting.append((ticket, request))
            self._tell_positions()
            self._changed.notify_all()
        return ticket

    def reject(self, error: SvdError, options: JobOptions = USUAL) -> Ticket:
        ticket = Ticket(None, self._on_cancel, options)
        self._shelf.put(ticket)
        self._end(ticket, Failed(error))
        return ticket

    def length(self) -> int:
        return len(self._waiting)

    def get(self, job_id: str) -> Ticket:
        return self._shelf.find(job_id)

    def position(self, job_id: str) -> int:
        ticket = self._shelf.find(job_id)
        with self._changed:
            for ahead, (waiting, _) in enumerate(self._waiting, start=self._busy()):
                if waiting is ticket:
                    return ahead
        return 0

    def close(self) -> None:
        with self._changed:
            self._closed = True
            for ticket, _ in self._waiting:
                self._end(ticket, Stopped())
            self._waiting.clear()
            running = self._running
            if running is not None:
                running.stopping.set()
            self._changed.notify_all()
        self._thread.join(self._patience_s)
        if self._thread.is_alive() and running is not None:
            log.warning("Job %s did not stop within %g s.", running.id, self._patience_s)
            self._end(running, Stopped())

    def _work(self) -> None:
        while (turn := self._next()) is not None:
            ticket, request = turn
            ending = self._run(ticket, request)
            del turn, request  # up to 20 MB of photo, not to be kept until the next job comes
            with self._changed:
                self._running = None
                self._end(ticket, ending)
                self._tell_positions()

    def _next(self) -> tuple[Ticket, VideoRequest | RemoteRequest] | None:
        """Wait for a job and mark it as running; None once the queue is closed."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            turn = self._waiting.popleft()
            self._running = turn[0]
            return turn

    def _run(
        self, ticket: Ticket, request: VideoRequest | RemoteRequest
    ) -> Succeeded | Failed | Stopped:
        def on_progress(progress: Progress) -> None:
            if ticket.stopping.is_set():
                raise Cancelled
            ticket.report(progress)

        try:
            if isinstance(request, RemoteRequest):
                request = VideoRequest(self._fetch(request.image_url), request.params)
            return Succeeded(self._make(ticket.id, request, on_progress))
        except Exception as error:  # noqa: BLE001 - after any failure the next job must still run
            return ending_of(ticket.id, error)

    def _on_cancel(self, ticket: Ticket) -> None:
        with self._changed:
            for turn in self._waiting:
                if turn[0] is ticket:
                    self._waiting.remove(turn)
                    self._end(ticket, Stopped())
                    self._tell_positions()
                    return

    def _end(self, ticket: Ticket, ending: Succeeded | Failed | Stopped) -> None:
        ticket.report(ending)
        self._shelf.retire(ticket)

    def _tell_positions(self) -> None:
        for ahead, (ticket, _) in enumerate(self._waiting, start=self._busy()):
            if ticket.last != (now := Progress(stage=Stage.QUEUED, step=ahead)):
                ticket.report(now)

    def _busy(self) -> int:
        return 0 if self._running is None else 1
