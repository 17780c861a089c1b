"""Clocks for processes that share a table: monotonic wall clock, and change tracking.

No time of one process is compared with a time of another, so their clocks may differ.
"""

import threading
import time
from collections.abc import Callable, Container, Hashable


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


class ChangeTracker:
    """How long each value has been unchanged, as observed by this process.

    To know whether another process is alive, observe twice a value that it keeps changing.
    """

    def __init__(self, steady: Callable[[], float] = time.monotonic) -> None:
        self._steady = steady
        self._seen: dict[Hashable, tuple[Hashable, float]] = {}

    def unchanged_for_s(self, key: Hashable, value: Hashable = None) -> float:
        """Seconds since `key` was first observed with this value; 0 if that is now."""
        now = self._steady()
        before, since = self._seen.get(key, (None, now))
        if key not in self._seen or before != value:
            self._seen[key] = (value, now)
            return 0.0
        return now - since

    def retain(self, keys: Container[Hashable]) -> None:
        """Forget all keys but `keys`."""
        self._seen = {key: seen for key, seen in self._seen.items() if key in keys}
