"""Start failures: workers in a row that could not load the checkpoint, with backoff."""

import time
from collections.abc import Callable

from svd_core.errors import SvdError

MAX_FAILURES = 3
"""Failures in a row after which a job fails with the last error."""

BACKOFF_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds until the next worker is started, by the number of failures in a row."""


class StartFailures:
    """Failures in a row, until one worker starts. Not thread-safe.

    `error`: the last one's error; None after a success. `may_retry`: whether the backoff is over.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._count = 0
        self._retry_at = 0.0
        self.error: SvdError | None = None

    @property
    def may_retry(self) -> bool:
        return self._clock() >= self._retry_at

    @property
    def exhausted(self) -> bool:
        """Whether a job is to fail with `error`."""
        return self._count >= MAX_FAILURES

    def add(self, error: SvdError) -> None:
        self._count += 1
        self.error = error
        delay_s = BACKOFF_S[min(self._count, len(BACKOFF_S)) - 1]
        self._retry_at = self._clock() + delay_s

    def take(self) -> SvdError:
        """The error that a job fails with. The next job gets as many tries."""
        assert self.error is not None
        self._count = 0
        return self.error

    def retry_now(self) -> None:
        """Try again at once: a job has come after a while without one."""
        self._count, self._retry_at = 0, 0.0

    def clear(self) -> None:
        """A worker has started."""
        self._count, self.error = 0, None
