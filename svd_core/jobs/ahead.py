"""Photos at addresses, fetched while their jobs wait: a slow host holds up its own job only."""

import logging
import threading
from collections.abc import Callable, Iterable

from svd_core.errors import QueueUnavailable, StorageFull
from svd_core.jobs.premises import Premises
from svd_core.jobs.schema import Row
from svd_core.jobs.work import ending_of

AT_ONCE = 4
"""Photos under way at a time: four slow hosts hold up those behind them, and may fill 80 MB."""

RETRY_S = 1.0
"""Seconds until what could not be written is tried again."""

log = logging.getLogger(__name__)


class Ahead:
    """Fetches in threads of its own. Safe to use from any thread.

    A photo lies on disk before the table says so, and a job has its place in line meanwhile: a
    process that dies on the way loses nothing, the photo is fetched again. `on_change` is called
    with the row of a job that has its photo now, or has failed; with None if it did not wait any
    more.
    """

    def __init__(self, premises: Premises, on_change: Callable[[Row | None], None]) -> None:
        self._table = premises.table
        self._photos = premises.photos
        self._fetch = premises.fetch
        self._on_change = on_change
        self._lock = threading.Lock()
        self._under_way: dict[str, threading.Thread] = {}
        self._closing = threading.Event()

    def look(self, rows: Iterable[Row]) -> None:
        """Begin with the first of `rows`, which are jobs that wait for their photos, as far as
        there are hands free."""
        with self._lock:
            for row in rows:
                if len(self._under_way) >= AT_ONCE or self._closing.is_set():
                    return
                if row.id not in self._under_way:
                    thread = threading.Thread(
                        target=self._run, args=(row,), name="svd-fetch", daemon=True
                    )
                    self._under_way[row.id] = thread
                    thread.start()

    def close(self, patience_s: float) -> None:
        """Begin no more, and write nothing any more. What is under way is fetched again after a
        restart."""
        self._closing.set()
        with self._lock:
            threads = list(self._under_way.values())
        for thread in threads:
            thread.join(patience_s)

    def _run(self, row: Row) -> None:
        after = None
        try:
            after = self._provided(row)
        finally:
            with self._lock:
                del self._under_way[row.id]
            if not self._closing.is_set():
                self._on_change(after)

    def _provided(self, row: Row) -> Row | None:
        assert row.image_url is not None
        try:
            name = self._photos.put(self._fetch(row.image_url))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the end of this job
            ending = ending_of(row.id, error)
            return self._written(lambda: self._table.end_waiting(row.id, ending))
        return self._written(lambda: self._table.provide(row.id, name))

    def _written(self, change: Callable[[], Row | None]) -> Row | None:
        """The host is not to be asked twice because the table cannot be reached: try again."""
        while not self._closing.is_set():
            try:
                return change()
            except (QueueUnavailable, StorageFull) as error:
                log.warning("What came of a photo is not written yet. %s", error)
                self._closing.wait(RETRY_S)
        return None
