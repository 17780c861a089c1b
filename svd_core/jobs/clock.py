"""Monotonic wall clock, and change tracking without comparing clocks of two processes."""

import threading
import time
from collections.abc import Callable, Container, Hashable


class SteadyClock:
    """Shows the time of day and never goes back while the process lives: it follows `wall` where
    that moves on, and `steady` where somebody set the former back."""

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
        """Seconds since 1970 UTC; at least those shown before, plus what went by since."""
        with self._lock:
            at = self._steady()
            self._shown = max(self._wall(), self._shown + at - self._at)
            self._at = at
            return self._shown


class ChangeTracker:
    """Since when each thing has looked as it does, as this process has seen it.

    No clock of one process is compared with that of another, so none has to be right: whoever
    wants to know whether somebody else is still alive looks twice.
    """

    def __init__(self, steady: Callable[[], float] = time.monotonic) -> None:
        self._steady = steady
        self._seen: dict[Hashable, tuple[Hashable, float]] = {}

    def unchanged_for_s(self, key: Hashable, looks: Hashable = None) -> float:
        """Seconds since `key` was first seen looking like this; 0 if that is now."""
        now = self._steady()
        before, since = self._seen.get(key, (None, now))
        if key not in self._seen or before != looks:
            self._seen[key] = (looks, now)
            return 0.0
        return now - since

    def retain(self, keys: Container[Hashable]) -> None:
        """Forget everything but `keys`."""
        self._seen = {key: seen for key, seen in self._seen.items() if key in keys}
