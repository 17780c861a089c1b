"""Photos at addresses, fetched while their jobs wait: a slow host holds up its own job only."""

import threading
import time
from collections.abc import Callable, Iterable

from svd_core.jobs.backoff import Backoff
from svd_core.jobs.callbacks import ending_of
from svd_core.jobs.config import Premises
from svd_core.jobs.database import insisted
from svd_core.jobs.schema import Row

AT_ONCE = 4
"""Photos under way at a time: four slow hosts hold up those behind them, and may fill 80 MB."""

WRITING_S = 1.0
"""Far more than the table takes to be told of a photo."""


class Ahead:
    """Fetches in threads of its own. Safe to use from any thread.

    A photo lies on disk before the table says so, and a job has its place in line meanwhile: a
    process that dies on the way loses nothing, the photo is fetched again. `waiting` gives the jobs
    that lack their photos, in the order of the line; `on_change` is called with the row of one that
    has its photo now, or has failed.
    """

    def __init__(
        self,
        premises: Premises,
        waiting: Callable[[], Iterable[Row]],
        on_change: Callable[[Row], None],
    ) -> None:
        self._table = premises.table
        self._photos = premises.job_photos
        self._fetch = premises.fetch
        self._waiting = waiting
        self._on_change = on_change
        self._backoff = Backoff()
        self._lock = threading.Lock()
        self._under_way: dict[str, threading.Thread] = {}
        self._closing = threading.Event()

    def look(self) -> None:
        """Begin with the first that wait, as far as there are hands free."""
        with self._lock:  # around `waiting`, so that nothing is begun that has just been done
            for row in self._waiting():
                if len(self._under_way) >= AT_ONCE or self._closing.is_set():
                    return
                if row.id not in self._under_way:
                    thread = threading.Thread(
                        target=self._run, args=(row,), name="svd-fetch", daemon=True
                    )
                    self._under_way[row.id] = thread
                    thread.start()

    def close(self) -> None:
        """Begin no more, and write nothing any more. What is under way is fetched again after a
        restart, so that no slow host holds up the end."""
        self._closing.set()
        with self._lock:
            threads = list(self._under_way.values())
        deadline = time.monotonic() + WRITING_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self, row: Row) -> None:
        try:
            change = self._brought(row)
            after = None if self._closing.is_set() else insisted(change, self._closing)
            if after is not None:  # else it did not wait any more
                self._on_change(after)
        finally:
            with self._lock:
                del self._under_way[row.id]
        self.look()

    def _brought(self, row: Row) -> Callable[[], Row | None]:
        """What is to be done to the table after the photo has come, or has not."""
        assert row.image_url is not None
        try:
            name, ensure = self._photos.put(self._fetch(row.image_url))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the end of this job
            ending = ending_of(row.id, error)
            with self._lock:
                delay_s = self._backoff.delay_s(row.id, ending)
            if delay_s is not None:
                self._closing.wait(delay_s)
                return lambda: None
            return lambda: self._table.end_waiting(row.id, ending)
        return lambda: self._table.provide(row.id, name, ensure)
