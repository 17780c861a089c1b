"""Retry with exponential backoff for transient faults of the machine."""

from svd_core.events import Failed
from svd_core.jobs.store import Outcome

FIRST_S = 1.0
MAX_S = 60.0
MAX_FAULTS = 10
"""Tries of one job, which together take some five minutes. Each may cost minutes of work."""

WAITING_NOTE = (
    "The server is short of something just now; the video is made as soon as that is over."
)


class Backoff:
    """Counts the faults of each job. Not thread-safe."""

    def __init__(self, first_s: float = FIRST_S) -> None:
        self._first_s = first_s
        self._faults: dict[str, int] = {}

    def delay_s(self, job_id: str, outcome: Outcome) -> float | None:
        """Seconds until the job should be tried again; None if `ending` is its end."""
        before = self._faults.pop(job_id, 0)
        passing = isinstance(outcome, Failed) and outcome.error.passing
        if not passing or before + 1 >= MAX_FAULTS:
            return None
        self._faults[job_id] = before + 1
        return min(self._first_s * 2.0**before, MAX_S)
