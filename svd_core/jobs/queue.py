"""Job queue over the table. Subclasses do the work, in executors or in a watcher."""

import logging
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Self

from svd_core.database import retry_until_written
from svd_core.errors import (
    GenerationFailed,
    InvalidImage,
    QueueFull,
    ServerStopping,
    StartTimeout,
    SvdError,
    UnknownJob,
)
from svd_core.event_stream import EventStream, error_to_outcome
from svd_core.events import Event, Failed, Outcome, Progress, Stage, Stopped, Succeeded
from svd_core.jobs.interface import (
    DEFAULT_OPTIONS,
    Cancellation,
    ExecutorLost,
    Fetch,
    JobOptions,
    RemoteRequest,
)
from svd_core.jobs.job import Job, OpenJobs
from svd_core.jobs.schema import Row, State, create_tables
from svd_core.jobs.store import (
    JobTable,
    Transition,
    begin,
    finish,
    new_row,
    photo_name,
    release,
)
from svd_core.messages import Message
from svd_core.params import VideoRequest
from svd_core.storage import bytes_of

TIMER_S = 0.5
"""Interval of the timer thread in seconds."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QueueLimits:
    """Limits and timeouts of a queue.

    `max_queue`: jobs that may wait. `max_per_owner`: jobs of one owner that may wait, where all
    jobs without an owner count as one owner's; None: no such limit. `shutdown_timeout_s`: seconds
    that `close` waits for running work to stop.
    """

    max_queue: int = 32
    max_per_owner: int | None = None
    shutdown_timeout_s: float = 10.0


DEFAULT_LIMITS = QueueLimits()


def no_fetch(_: str) -> bytes:
    """Refuse every URL. Raises `InvalidImage`."""
    raise InvalidImage("image_url_unsupported")


@dataclass(frozen=True)
class QueueContext:
    """Dependencies of a queue. `fetch` downloads remote photos."""

    table: JobTable
    limits: QueueLimits = DEFAULT_LIMITS
    fetch: Fetch = no_fetch


class JobQueue:
    """Durable job queue, shared by page and API. Subclasses do the work.

    It does nothing before `start`, so a warm standby may have one.
    """

    in_turn = True
    """Whether one job waits for another. If not, running jobs count against the limit too."""

    def __init__(self, context: QueueContext) -> None:
        self.table = context.table
        self._limits = context.limits
        self._fetch = context.fetch
        self._now = context.table.clock.now
        self._closing = threading.Event()
        self._open_jobs = OpenJobs(self._make_job, self.in_turn)
        self._timer = threading.Thread(target=self._run_timer, name="svd-keeper", daemon=True)

    def start(self) -> Self:
        """Load the open jobs of the table; those that ran go back in line. Returns the queue.

        This process must own the table, see `OwnerLock`.
        """
        create_tables(self.table.database)
        for row in self.table.open_jobs():
            self._open_jobs.apply(row)
        self.table.on_change = self._on_change
        self.table.recover()
        self._timer.start()
        return self

    def submit(
        self, request: VideoRequest | RemoteRequest, options: JobOptions = DEFAULT_OPTIONS
    ) -> Job:
        """Enqueue `request`. Raises `QueueFull`, and `ServerStopping` once the queue is closed."""
        row, photo = new_row(request.params, options, self._now()), b""
        if isinstance(request, RemoteRequest):
            row = replace(row, image_url=request.image_url)
        else:
            photo = request.image
            row = replace(row, image=photo_name(photo), continues=request.continues)
        with self.table.database.serialized():  # only one thread gets the last place
            self.ensure_room(options)
            self.table.insert(row, photo)
            return self.get(row.id)

    def ensure_room(self, options: JobOptions = DEFAULT_OPTIONS) -> None:
        """Check the limits, before the photo is read. Raises `QueueFull`, `ServerStopping`."""
        self._refuse_if_closed()
        count, owned = self._open_jobs.count(), self._open_jobs.count(options.owner)
        limit = self._limits.max_per_owner
        too_many = options.max_waiting is not None and count > options.max_waiting
        if too_many or count >= self._limits.max_queue:
            raise QueueFull("queue_full", count=count)
        if limit is not None and owned >= limit:
            code = "owner_queue_full" if options.owner else "anonymous_queue_full"
            raise QueueFull(code, count=owned)

    def room(self, owner: str = "") -> int:
        """How many more jobs `owner` may submit now."""
        limit = self._limits.max_per_owner
        room = self._limits.max_queue - self._open_jobs.count()
        if limit is not None:
            room = min(room, limit - self._open_jobs.count(owner))
        return max(room, 0)

    def reject(self, error: SvdError, options: JobOptions = DEFAULT_OPTIONS) -> Job:
        """Add a job that has failed with `error`, with an id, an outcome and a webhook.

        Raises `ServerStopping`.
        """
        self._refuse_if_closed()
        now = self._now()
        row = finish(new_row(None, options, now), now, Failed(error))
        return self._make_job(self.table.insert(row))

    def get(self, job_id: str) -> Job:
        """The job of that id. Raises `UnknownJob`, also for deleted jobs."""
        return self._open_jobs.find(job_id) or self._to_job(self._row(job_id))

    def get_cached(self, job_id: str) -> Job | None:
        """The job of that id if it is open. Never blocks."""
        return self._open_jobs.find(job_id)

    def of_owner(self, owner: str, limit: int = 100) -> list[Job]:
        """The newest jobs of `owner`, at most `limit`, newest first."""
        return [self._to_job(row) for row in self.table.list_by_owner(owner, limit)]

    def photo(self, job_id: str) -> bytes | None:
        """The photo of a job; None if it is not kept. Raises `UnknownJob`."""
        name = self._row(job_id).image
        return None if name is None else self.table.photo(name)

    def length(self) -> int:
        """The number of waiting jobs."""
        return len(self._open_jobs.line())

    def close(self) -> None:
        """Refuse new jobs and stop the work. Returns when it has stopped. Idempotent."""
        self._closing.set()
        self._stop_work(self._limits.shutdown_timeout_s)
        for job in self._open_jobs.running():
            log.warning("Job %s did not stop in time. It runs again after a restart.", job.id)
            self._release(job, Message("server_stopped"))
        self._timer.join(self._limits.shutdown_timeout_s)
        self._open_jobs.close()

    def _on_waiting(self) -> None:
        """Called when a waiting job might start."""

    def _stop_work(self, timeout_s: float) -> None:
        """Stop the work. Returns when it has stopped, or after `timeout_s`."""

    def _on_watch(self, _: Job) -> Iterator[Event] | None:
        """Called with a job that gets a watcher; see `Job`."""
        return None

    def _claim(self, job: Job) -> bool:
        """Begin an attempt of a job. Returns False if it no longer waits."""
        with self.table.database.serialized():
            if self._closing.is_set() or job.row.state is not State.WAITING or self._is_late(job):
                return False
            row = self._update(job, State.WAITING, begin)
            return row is not None and row.state is State.RUNNING

    def _attempt(self, run: EventStream, job: Job) -> Iterator[Event]:
        """Run a claimed job once. Yields `Progress*`, already reported, then the outcome.

        Raises `ExecutorLost`.
        """
        outcome: Outcome = Failed(GenerationFailed("model_gave_nothing"))
        try:
            with closing(run(job.id, self._request(job))) as events:
                for event in events:
                    if isinstance(event, Succeeded | Failed | Stopped):
                        outcome = event
                        break
                    if job.cancel_event.is_set() or self._closing.is_set():
                        outcome = Stopped()
                        break
                    if event is not None:
                        job.report(event)
                        yield event
        except ExecutorLost:
            raise
        except Exception as error:  # noqa: BLE001 - the next job must run after any failure
            outcome = error_to_outcome(job.id, error)
        yield outcome

    def _request(self, job: Job) -> VideoRequest:
        """The video request of a job, with its photo. Raises what `fetch` raises."""
        row = job.row
        if row.params is None:
            raise GenerationFailed("server_changed")
        if row.image is not None:
            if (image := self.table.photo(row.image)) is None:
                raise GenerationFailed("image_gone")
            return VideoRequest(image, row.params, row.continues)
        assert row.image_url is not None
        job.report(Progress(stage=Stage.FETCHING))
        return VideoRequest(self._fetch(row.image_url), row.params)

    def _finish(self, job: Job, outcome: Outcome) -> None:
        """End a running job. If the shutdown stopped it, it goes back in line."""
        closing = self._closing.is_set() and not job.cancel_event.is_set()
        if isinstance(outcome, Stopped) and closing:
            self._release(job, Message("server_stopped"))
            return
        size = bytes_of(outcome.video.path) if isinstance(outcome, Succeeded) else 0
        self._end_attempt(job, lambda row, now: finish(row, now, outcome, size))

    def _release(self, job: Job, note: Message) -> None:
        """Return a running job to its place in line; the attempt does not count."""
        self._end_attempt(job, lambda row, now: release(row, now, note))

    def _end_attempt(self, job: Job, change: Transition) -> None:
        """Write the end of an attempt, which cost minutes, with retries.

        If the server stops first, the work is repeated. Nothing is written if `close` has already
        put the job back.
        """
        if job.row.state is State.RUNNING:
            retry_until_written(lambda: self._update(job, State.RUNNING, change), self._closing)

    def _end_waiting(self, job: Job, outcome: Outcome) -> None:
        self._update(job, State.WAITING, lambda row, now: finish(row, now, outcome))

    def _update(self, job: Job, state: State, change: Transition, photo: bytes = b"") -> Row | None:
        """Change a job that is in `state`; see `JobTable.update`."""
        with self.table.database.serialized():  # no event may follow the snapshot
            return self.table.update(job.id, state, change, job.snapshot(), photo)

    def _cancel(self, job: Job) -> Cancellation:
        with self.table.database.serialized():
            match job.row.state:
                case State.WAITING:
                    self._end_waiting(job, Stopped())
                    return Cancellation.REMOVED
                case State.RUNNING:
                    self._update(job, State.RUNNING, lambda row, _: replace(row, stop_asked=True))
                    job.stop()
                    return Cancellation.REQUESTED
                case State.ENDED:
                    return Cancellation.TOO_LATE

    def _on_change(self, row: Row) -> None:
        """Called with each written row, in the order of the commits."""
        self._open_jobs.apply(row)
        if row.state is State.WAITING:
            self._on_waiting()

    def _run_timer(self) -> None:
        """Timer thread: end late jobs, try to start others, and write checkpoints."""
        error = StartTimeout("start_timeout")
        while not self._closing.wait(TIMER_S):
            try:
                for job in filter(self._is_late, self._open_jobs.line()):
                    self._end_waiting(job, Failed(error))
                if self._open_jobs.line():
                    self._on_waiting()  # a retry may be due
                self.table.database.checkpoint()
            except Exception as fault:  # noqa: BLE001 - the next time may succeed
                expected = isinstance(fault, SvdError)
                log.warning("Cannot start waiting jobs, retrying: %s", fault, exc_info=not expected)

    def _is_late(self, job: Job) -> bool:
        return job.start_by is not None and job.start_by <= self._now()

    def _row(self, job_id: str) -> Row:
        row = self.table.get(job_id)
        if row is None:
            raise UnknownJob("job_expired")
        return row

    def _to_job(self, row: Row) -> Job:
        if row.state is State.ENDED:
            return self._make_job(row)
        with self.table.database.serialized():  # or an old row could replace a new one
            job = self._open_jobs.find(row.id)
            return job or self._open_jobs.apply(self._row(row.id))

    def _make_job(self, row: Row) -> Job:
        return Job(row, self._now, self._cancel, self._on_watch)

    def _refuse_if_closed(self) -> None:
        if self._closing.is_set():
            raise ServerStopping("server_stopping")
