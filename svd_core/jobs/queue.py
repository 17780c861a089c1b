"""Job queue over the table. Subclasses do the work, in a thread or in a watcher."""

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from uuid import uuid4

from svd_core.errors import QueueFull, ServerStopping, SvdError, UnknownJob
from svd_core.events import Event, Failed
from svd_core.jobs.claims import ClaimedJobs, HeartbeatThread
from svd_core.jobs.config import QueueContext
from svd_core.jobs.interface import DEFAULT_OPTIONS, Cancellation, JobOptions, RemoteRequest
from svd_core.jobs.job import JobHandle, OpenJobs
from svd_core.jobs.schema import Row, State
from svd_core.params import VideoRequest

log = logging.getLogger(__name__)


class TableQueue:
    """Implements `JobQueue` without the work.

    That is left to subclasses, or to other processes that share the table and the photos.
    """

    in_turn = True
    """Whether one job waits for another. If not, running jobs count against the limit too."""

    def __init__(self, context: QueueContext) -> None:
        self._table = context.table
        self._store = context.photos
        self._photos = context.job_photos
        context.table.on_released = self._release_photo
        self._limits = context.limits
        self._open_jobs = OpenJobs(self._make_handle, self.in_turn)
        self._claims = ClaimedJobs(context, self._open_jobs)
        self._heartbeat = HeartbeatThread(context, self._open_jobs, self._claims, self._on_waiting)
        self._heartbeat.start()

    def submit(
        self, request: VideoRequest | RemoteRequest, options: JobOptions = DEFAULT_OPTIONS
    ) -> JobHandle:
        self.ensure_room(options)  # check the limits before the photo is stored
        photo, ensure = self._store_photo(request)
        row = self._table.new(uuid4().hex, request.params, options, **photo)
        states = (State.WAITING,) if self.in_turn else (State.WAITING, State.RUNNING)

        def admit(count: int, owned: int) -> None:
            self._admit(options, count, owned)
            ensure()

        try:
            row = self._table.insert(row, states, admit)
        except SvdError:
            if row.image is not None:
                self._release_photo(row.image)
            raise
        job = self._open_jobs.upsert(row)
        self._on_waiting()
        return job

    def ensure_room(self, options: JobOptions = DEFAULT_OPTIONS) -> None:
        self._refuse_if_closed()
        self._admit(options, self._open_jobs.count(), self._open_jobs.count(options.owner))

    def room(self, owner: str = "") -> int:
        limit = self._limits.max_per_owner
        room = self._limits.max_queue - self._open_jobs.count()
        if limit is not None:
            room = min(room, limit - self._open_jobs.count(owner))
        return max(room, 0)

    def reject(self, error: SvdError, options: JobOptions = DEFAULT_OPTIONS) -> JobHandle:
        self._refuse_if_closed()
        row = self._table.new(uuid4().hex, None, options)
        return self._make_handle(self._table.insert_ended(row, Failed(error)))

    def get(self, job_id: str) -> JobHandle:
        if (job := self._open_jobs.find(job_id)) is not None:
            return job
        return self.refresh(job_id)

    def refresh(self, job_id: str) -> JobHandle:
        return self._handle(self._row(job_id))

    def of_owner(self, owner: str, limit: int = 100) -> list[JobHandle]:
        return [self._handle(row) for row in self._table.list_by_owner(owner, limit)]

    def photo(self, job_id: str) -> bytes | None:
        name = self._row(job_id).image
        return None if name is None else self._store.read(name)

    def get_cached(self, job_id: str) -> JobHandle | None:
        return self._open_jobs.find(job_id)

    def position(self, job_id: str) -> int:
        self.get(job_id)
        return self._open_jobs.position(job_id)

    def length(self) -> int:
        return self._open_jobs.waiting()

    def close(self) -> None:
        self._claims.closing.set()
        self._stop_work(self._limits.shutdown_timeout_s)
        for job in self._claims.claimed.values():
            log.warning("Job %s did not stop in time; it goes back in line.", job.id)
            with suppress(SvdError):  # then its lease runs out
                self._claims.requeue(job)
        self._heartbeat.close(self._limits.shutdown_timeout_s)
        self._open_jobs.close()

    def _on_waiting(self) -> None:
        """Called when a job may wait that could start here."""

    def _stop_work(self, timeout_s: float) -> None:
        """Stop the work. Returns when it has stopped, or after `timeout_s`."""

    def _on_watch(self, _: JobHandle) -> Iterator[Event] | None:
        """Called when a job gets a watcher; see `JobHandle`."""
        return None

    def _row(self, job_id: str) -> Row:
        row = self._table.get(job_id)
        if row is None:
            raise UnknownJob("This job is not known here any more; please make the video again.")
        return row

    def _handle(self, row: Row) -> JobHandle:
        return self._make_handle(row) if row.state is State.ENDED else self._open_jobs.upsert(row)

    def _make_handle(self, row: Row) -> JobHandle:
        return JobHandle(row, self._table.clock.now, self._cancel, self._on_watch)

    def _store_photo(
        self, request: VideoRequest | RemoteRequest
    ) -> tuple[dict[str, str], Callable[[], None]]:
        """The columns of the photo, and the callback that ensures that it is on disk."""
        if isinstance(request, RemoteRequest):
            return {"image_url": request.image_url}, lambda: None
        name, ensure = self._photos.put(request.image)
        continues = {} if request.continues is None else {"continues": request.continues}
        return {"image": name} | continues, ensure

    def _release_photo(self, name: str) -> None:
        with suppress(SvdError):  # then the next sweep removes it
            self._photos.release(name)

    def _cancel(self, job_id: str) -> Cancellation:
        try:
            cancellation, row = self._table.cancel(job_id)
        except UnknownJob:  # deleted since its end
            return Cancellation.TOO_LATE
        job = self._open_jobs.upsert(row)
        if cancellation is Cancellation.REQUESTED:
            job.stop()
        return cancellation

    def _refuse_if_closed(self) -> None:
        if self._claims.closing.is_set():
            raise ServerStopping("The server is stopping; please try again in a minute.")

    def _admit(self, options: JobOptions, count: int, owned: int) -> None:
        """Raises `QueueFull`. `owned`: how many of them are the same owner's."""
        limit, verb = self._limits.max_per_owner, "waiting" if self.in_turn else "being made"
        too_many = options.max_waiting is not None and count > options.max_waiting
        if too_many or count >= self._limits.max_queue:
            raise QueueFull(
                f"{count} videos are {verb} already, which is as many as fit; "
                "please try again in a few minutes."
            )
        if limit is None or owned < limit:
            return
        if options.owner:
            raise QueueFull(
                f"{owned} of your videos are {verb} already, which is as many as you may have; "
                "please try again when one is done."
            )
        raise QueueFull(
            f"{owned} videos of callers without a name are {verb} already, which is as many as "
            "fit; please try again in a few minutes."
        )
