"""The queue without a worker: whoever watches a job first does its work, in the watcher's context.

On ZeroGPU the GPU is lent to a live request, so the work has to happen inside it. If the watcher
goes away the job ends, which is the one difference from `LocalQueue`.
"""

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

from svd_core.errors import GenerationFailed, QueueFull, ServerStopping, SvdError
from svd_core.events import Event, Failed, Progress, Stopped, Succeeded, Video
from svd_core.jobs.local import no_fetch
from svd_core.jobs.protocol import USUAL, Fetch, JobOptions, RemoteRequest
from svd_core.jobs.shelf import Shelf
from svd_core.jobs.ticket import Ticket, ending_of
from svd_core.params import VideoRequest

InlineWork = Callable[[str, VideoRequest], Generator[Progress | Video]]
"""Yields `Progress*`, then the `Video`. Closing the generator stops it and frees the device."""


class InlineQueue:
    """Implements `JobQueue`.

    `max_queue`: jobs that may be open at once. `keep_s`: seconds a finished job is remembered.
    """

    def __init__(
        self,
        work: InlineWork,
        max_queue: int,
        *,
        fetch: Fetch = no_fetch,
        keep_s: float = 86_400.0,
    ) -> None:
        self._work = work
        self._fetch = fetch
        self._max_queue = max_queue
        self._shelf = Shelf(keep_s)
        self._closed = False

    def submit(
        self, request: VideoRequest | RemoteRequest, options: JobOptions = USUAL
    ) -> "InlineJob":
        if self._closed:
            raise ServerStopping("The server is stopping; please try again in a minute.")
        if len(self._shelf.open_tickets()) >= self._max_queue:
            raise QueueFull(
                f"{self._max_queue} videos are being made already, which is as many as fit; "
                "please try again in a few minutes."
            )
        job = InlineJob(self._resolved, request, self._shelf.retire, options)
        self._shelf.put(job)
        return job

    def reject(self, error: SvdError, options: JobOptions = USUAL) -> Ticket:
        ticket = Ticket(None, lambda _: None, options)
        self._shelf.put(ticket)
        ticket.report(Failed(error))
        self._shelf.retire(ticket)
        return ticket

    def length(self) -> int:
        return len(self._shelf.open_tickets())

    def _resolved(
        self, job_id: str, request: VideoRequest | RemoteRequest
    ) -> Generator[Progress | Video]:
        if isinstance(request, RemoteRequest):
            request = VideoRequest(self._fetch(request.image_url), request.params)
        return self._work(job_id, request)

    def get(self, job_id: str) -> Ticket:
        return self._shelf.find(job_id)

    def position(self, job_id: str) -> int:
        self._shelf.find(job_id)
        return 0

    def close(self) -> None:
        self._closed = True
        for job in self._shelf.open_tickets():
            job.cancel()
            job.report(Stopped())  # its watcher may never come back to notice
            self._shelf.retire(job)


class InlineJob(Ticket):
    """Implements `Job`; its first `events` iterator is the one that works."""

    def __init__(
        self,
        work: Callable[[str, VideoRequest | RemoteRequest], Generator[Progress | Video]],
        request: VideoRequest | RemoteRequest,
        on_end: Callable[[Ticket], None],
        options: JobOptions,
    ) -> None:
        self._work = work
        self._request: VideoRequest | RemoteRequest | None = request
        self._on_end = on_end
        self._claim = threading.Lock()
        super().__init__(request.params, self._stop_unless_claimed, options)

    def events(self) -> Iterator[Event]:
        with self._claim:
            request, self._request = self._request, None
        if request is None:
            yield from super().events()
            return
        yield from self._run(request)

    def _run(self, request: VideoRequest | RemoteRequest) -> Iterator[Event]:
        ending: Succeeded | Failed | Stopped = Stopped()  # what holds if this iterator is dropped
        try:
            yield self.last
            with closing(self._work(self.id, request)) as work:
                for made in work:
                    if self.stopping.is_set():
                        break
                    if isinstance(made, Video):
                        ending = Succeeded(made)
                        break
                    self.report(made)
                    yield made
                else:
                    ending = Failed(GenerationFailed("The model gave no video; please try again."))
        except Exception as error:  # noqa: BLE001 - a job ends by an event, never by an exception
            ending = ending_of(self.id, error)
        finally:
            self.report(ending)
            self._on_end(self)
        yield self.last

    def _stop_unless_claimed(self, _: Ticket) -> None:
        with self._claim:
            request, self._request = self._request, None
        if request is not None:
            self.report(Stopped())
            self._on_end(self)
