"""Claimed jobs of this process: claim, report, finish or requeue."""

import logging
import threading
from collections.abc import Mapping
from uuid import uuid4

from svd_core.errors import GenerationFailed
from svd_core.events import OnProgress, Progress, Stage, Stopped, Succeeded
from svd_core.jobs.config import QueueContext
from svd_core.jobs.database import retry_until_written
from svd_core.jobs.interface import Outcome
from svd_core.jobs.job import JobHandle
from svd_core.jobs.open_jobs import OpenJobs
from svd_core.jobs.schema import Row
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
        """The jobs under way here."""
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
        """What is to be made, with the photo. Raises what `fetch` does, and `GenerationFailed`."""
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

    def _write_outcome(self, job: JobHandle, outcome: Outcome) -> None:
        """Minutes of work are not to be lost. If the server stops before, they are done again; if
        somebody took the job over while this process slept, they are not wanted."""
        size = _size(outcome)
        row = retry_until_written(
            lambda: self._table.end(job.id, self.token, job.snapshot(), outcome, size),
            self.closing,
        )
        if row is not None:
            self._open_jobs.upsert(row)


def _size(outcome: Outcome) -> int:
    """Bytes on disk."""
    return bytes_of(outcome.video.path) if isinstance(outcome, Succeeded) else 0
