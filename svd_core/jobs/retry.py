"""Retry with exponential backoff for passing faults, and the outcome that each error means.

A fault passes where the machine is short of memory, open files or disk space for the moment.
"""

import logging

from svd_core.errors import Cancelled, GenerationFailed, OutOfMemory, SvdError, busy_if_passing
from svd_core.events import Failed, Stopped
from svd_core.jobs.interface import Outcome

FIRST_S = 1.0
MAX_S = 60.0
MAX_FAULTS = 10
"""Tries of one job. Their delays add up to five minutes, and each may cost minutes of work."""

WAITING_NOTE = (
    "The server is short of something just now; the video is made as soon as that is over."
)

log = logging.getLogger(__name__)


def error_to_outcome(job_id: str, error: Exception) -> Failed | Stopped:
    """The outcome of a job whose work raised `error`. Unforeseen errors are logged in full.

    With a `passing` error the job is not over where a `Backoff` has it tried again.
    """
    if isinstance(error, Cancelled):
        return Stopped()
    known = isinstance(error, OutOfMemory) or getattr(error, "passing", False)
    if not known and (busy := busy_if_passing(error)) is not None:
        log.warning("Job %s met a fault that passes: %s", job_id, error)
        return Failed(busy)
    if isinstance(error, SvdError):
        return Failed(_without_trace(error))
    log.error("Job %s ended by an unforeseen error.", job_id, exc_info=error)
    return Failed(
        GenerationFailed(
            "Something unforeseen went wrong, so there is no video; please try again. "
            f"If it happens again, tell whoever runs this server the job number {job_id[:8]}."
        )
    )


def _without_trace(error: SvdError) -> SvdError:
    """`error` as it can be kept for hours: its trace would keep all that was in memory."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


class Backoff:
    """Exponential backoff for each job. Thread-safe, if each job has one thread at a time."""

    def __init__(self, first_s: float = FIRST_S) -> None:
        self._first_s = first_s
        self._faults: dict[str, int] = {}

    def delay_s(self, job_id: str, outcome: Outcome) -> float | None:
        """Seconds until the next try of the job; None if `outcome` is its end."""
        before = self._faults.pop(job_id, 0)
        passing = isinstance(outcome, Failed) and outcome.error.passing
        if not passing or before + 1 >= MAX_FAULTS:
            return None
        self._faults[job_id] = before + 1
        return min(self._first_s * 2.0**before, MAX_S)
