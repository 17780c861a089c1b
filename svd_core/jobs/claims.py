"""Claims on jobs: leases with a heartbeat, and requeue of the jobs of dead workers.

A running job belongs to one worker. Its heartbeat renews the lease; when the lease has run out the
job goes back in line. File locks (flock) show at once that a process on this disk is dead.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO
from uuid import uuid4

from svd_core.errors import GenerationFailed, SvdError
from svd_core.events import OnProgress, Progress, Stage, Stopped, Succeeded
from svd_core.jobs.clock import ChangeTracker
from svd_core.jobs.config import QueueContext
from svd_core.jobs.database import retry_until_written
from svd_core.jobs.interface import Outcome
from svd_core.jobs.job import JobHandle, OpenJobs
from svd_core.jobs.schema import Row, State
from svd_core.jobs.store import JobSummary
from svd_core.params import VideoRequest
from svd_core.storage import bytes_of

SERVER_STOPPED_NOTE = "The server was stopped; the video is made as soon as it is back."

log = logging.getLogger(__name__)


class ClaimedJobs:
    """Jobs that this process has claimed. Thread-safe. `token` identifies this process."""

    def __init__(self, context: QueueContext, open_jobs: OpenJobs) -> None:
        self.token = uuid4().hex
        self.closing = threading.Event()
        self._table = context.table
        self._photos = context.photos
        self._fetch = context.fetch
        self._open_jobs = open_jobs
        self._claimed: dict[str, JobHandle] = {}

    @property
    def claimed(self) -> Mapping[str, JobHandle]:
        """The claimed jobs by id."""
        return self._claimed.copy()

    def claim(self, job_id: str | None = None) -> tuple[JobHandle, Row] | None:
        """Claim the first job in line, or the job `job_id`. Returns None if there is none."""
        row = None if self.closing.is_set() else self._table.claim(self.token, job_id)
        if row is None:
            return None
        job = self._claimed[row.id] = self._open_jobs.upsert(row)
        if not row.stop_asked:
            job.cancel_event.clear()  # it may have been ours before, and lost
        return job, row

    def is_cancelled(self, job: JobHandle) -> bool:
        return job.cancel_event.is_set() or self.closing.is_set()

    def request(self, row: Row, on_progress: OnProgress) -> VideoRequest:
        """The video request of a job, with its photo.

        Raises what `fetch` raises, and `GenerationFailed`.
        """
        if row.params is None:
            raise GenerationFailed(
                "The server has changed since you asked for this video; please make it again."
            )
        if row.image is not None:
            return VideoRequest(self._photos.read(row.image), row.params, row.continues)
        assert row.image_url is not None
        on_progress(Progress(stage=Stage.FETCHING))
        return VideoRequest(self._fetch(row.image_url), row.params)

    def finish(self, job: JobHandle, outcome: Outcome) -> None:
        """Store the outcome of a job. A job that stopped because the server stops is requeued."""
        try:
            if (
                isinstance(outcome, Stopped)
                and not job.cancel_event.is_set()
                and self.closing.is_set()
            ):
                self.requeue(job)
            else:
                self._write_outcome(job, outcome)
        finally:
            self._claimed.pop(job.id, None)

    def requeue(self, job: JobHandle, note: str = SERVER_STOPPED_NOTE) -> None:
        """Return a job to its place in line; the attempt does not count."""
        self._claimed.pop(job.id, None)
        row = retry_until_written(
            lambda: self._table.release(job.id, self.token, note), self.closing
        )
        if row is not None:
            self._open_jobs.upsert(row)

    def requeue_lost(self, job: JobHandle, *, counted: bool) -> None:
        """Return a job whose executor is lost to its place in line; end it after the last attempt.

        `counted`: whether the attempt counts.
        """
        if self.closing.is_set() and not job.cancel_event.is_set():
            self.requeue(job)
            return
        self._claimed.pop(job.id, None)
        lose = self._table.lose
        row = retry_until_written(
            lambda: lose(job.id, self.token, job.snapshot(), counted=counted), self.closing
        )
        if row is not None:
            self._open_jobs.upsert(row)

    def _write_outcome(self, job: JobHandle, outcome: Outcome) -> None:
        """Try until the table takes the outcome, which cost minutes of work.

        If the server stops first, the work is done again. If another worker has taken the job over
        while this process slept, the outcome is dropped.
        """
        size = _size(outcome)
        row = retry_until_written(
            lambda: self._table.end(job.id, self.token, job.snapshot(), outcome, size),
            self.closing,
        )
        if row is not None:
            self._open_jobs.upsert(row)


def _size(outcome: Outcome) -> int:
    """Bytes of the video on disk."""
    return bytes_of(outcome.video.path) if isinstance(outcome, Succeeded) else 0


try:
    import fcntl
except ImportError:  # Windows: there are leases only
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".alive"


class LivenessLock:
    """Lock on a file in `folder` named by `token`, held for the life of this process.

    The system releases the lock when the process ends in any way. Not thread-safe.
    """

    def __init__(self, folder: Path, token: str) -> None:
        self._folder = folder
        self._path = folder / f"{token}{SUFFIX}"
        self._file: IO[bytes] | None = None
        self._dead: set[str] = set()
        if fcntl is None:
            return
        draft = folder / token  # others see the file by its final name, and then it is locked
        with suppress(OSError):  # not every disk has locks
            self._file = draft.open("wb")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.rename(self._path)
        for path in folder.glob(f"*{SUFFIX}"):
            self.is_dead(path.stem)

    def is_dead(self, token: str) -> bool:
        """Whether the process of `token` is known to be dead. Its lock file is removed then."""
        path = self._folder / f"{token}{SUFFIX}"
        if fcntl is not None and self._file is not None and path != self._path:
            with suppress(OSError), path.open("rb+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._dead.add(token)
                path.unlink()
        return token in self._dead

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)


class HeartbeatThread:
    """Thread that keeps `open_jobs`, `claims` and the table in sync.

    `on_waiting` is called when a job waits that could be started.
    """

    def __init__(
        self,
        context: QueueContext,
        open_jobs: OpenJobs,
        claims: ClaimedJobs,
        on_waiting: Callable[[], None],
    ) -> None:
        self._table = context.table
        self._limits = context.limits
        self._open_jobs = open_jobs
        self._claims = claims
        self._on_waiting = on_waiting
        self._liveness_lock = LivenessLock(context.photos.folder, claims.token)
        self._changes = ChangeTracker()
        self._connected = True
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="svd-keeper", daemon=True)

    def start(self) -> None:
        """Start after one synchronous pass, so that jobs of a dead server go first."""
        self._tick()
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        self._closing.set()
        self._thread.join(timeout_s)
        self._liveness_lock.close()

    def _run(self) -> None:
        while not self._closing.wait(self._limits.poll_interval_s):
            self._tick()

    def _tick(self) -> None:
        try:
            self._heartbeat()
            self._sync()
        except Exception as error:  # noqa: BLE001 - the next tick may succeed
            if self._connected:
                expected = isinstance(error, SvdError)
                log.warning("Lost connection to the job table: %s", error, exc_info=not expected)
            self._connected = False
        else:
            self._connected = True

    def _sync(self) -> None:
        cached, claimed = self._open_jobs.versions(), self._claims.claimed
        summaries = self._table.open_jobs()
        changed = [
            summary.id
            for summary in summaries
            if cached.get(summary.id, 0) < summary.version and summary.id not in claimed
        ]
        closed = cached.keys() - {summary.id for summary in summaries}
        deleted = closed - self._refresh([*changed, *closed])
        for job_id in deleted:
            self._open_jobs.forget(job_id)
        for summary in summaries:
            self._expire(summary)
        self._changes.retain({summary.id for summary in summaries})
        if self._open_jobs.waiting():
            self._on_waiting()

    def _heartbeat(self) -> None:
        for job_id, job in self._claims.claimed.items():
            stop_asked = self._table.heartbeat(job_id, self._claims.token, job.snapshot())
            if stop_asked:
                job.stop()
            elif stop_asked is None and job_id in self._claims.claimed:
                job.cancel_event.set()  # another worker has it now

    def _refresh(self, ids: list[str]) -> set[str]:
        """Update the cache of these jobs from the table. Returns the ids that exist there."""
        rows = []
        for start in range(0, len(ids), 500):  # databases limit what one statement may name
            rows += self._table.get_many(ids[start : start + 500])
        for row in sorted(rows, key=lambda row: row.number):
            self._open_jobs.upsert(row)
        return {row.id for row in rows}

    def _expire(self, summary: JobSummary) -> None:
        """Requeue a job of a dead worker; end a job that has waited too long."""
        row = None
        unchanged_s = self._changes.unchanged_for_s(
            summary.id, summary.version if summary.state == State.RUNNING else summary.state
        )
        if summary.state == State.RUNNING:
            if self._is_worker_dead(summary, unchanged_s):
                row = self._table.requeue_lost(summary.id, summary.version)
        elif summary.start_timeout_s is not None:
            waited = max(unchanged_s, self._table.clock.now() - summary.submitted)
            if waited >= summary.start_timeout_s:
                row = self._table.time_out(summary.id)
        if row is not None:
            self._open_jobs.upsert(row)

    def _is_worker_dead(self, summary: JobSummary, unchanged_s: float) -> bool:
        """Whether the worker of a running job is dead: its lease ran out, or its lock is free."""
        if summary.id in self._claims.claimed:
            return False
        lease_over = unchanged_s >= self._limits.lease_s
        return lease_over or self._liveness_lock.is_dead(summary.worker or "")
