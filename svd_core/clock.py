"""Monotonic wall clock, so that a clock that is set back changes no order of times."""

import threading
import time
from collections.abc import Callable


class SteadyClock:
    """Wall clock that never goes back while the process lives.

    It follows `wall` while that advances, and `steady` after the wall clock was set back.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._lock = threading.Lock()
        self._shown = wall()
        self._at = steady()

    def now(self) -> float:
        """Seconds since 1970 UTC: at least the last value plus the seconds since then."""
        with self._lock:
            at = self._steady()
            self._shown = max(self._wall(), self._shown + at - self._at)
            self._at = at
            return self._shown
