"""Photo lifecycle: reference counting in the table, and a limit for all photos together.

Invariant: no photo that an open job needs is removed, whatever else happens at the same time. A
reference is written, and a photo removed, in a transaction that holds the line; whoever writes a
reference makes sure within it that the file is there.
"""

import math
import threading
from collections.abc import Callable
from contextlib import suppress

from sqlalchemy import func, select, update

from svd_core.errors import SvdError
from svd_core.jobs.eviction import Item, evict
from svd_core.jobs.schema import JOBS, State
from svd_core.jobs.store import JobTable, lock_line
from svd_core.storage import PhotoStore

SWEEP_BYTES = 64 * 2**20
"""Bytes put after which all photos are counted anew."""


class JobPhotos:
    """Photos in `store` as far as `table` knows them. Safe to use from any thread.

    `most_bytes`: of all photos together. Those of open jobs stay beyond it: how many there are is
    the limit of the line.
    """

    def __init__(self, table: JobTable, store: PhotoStore, most_bytes: float = math.inf) -> None:
        self._table = table
        self._store = store
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._put_bytes = 0

    def put(self, data: bytes) -> tuple[str, Callable[[], None]]:
        """Keep `data`. Returns its name, and what makes sure that it is there, to be called in the
        transaction that refers to it. Raises `StorageFull`, `ServerBusy`."""
        name = self._store.put(data)
        with self._lock:
            self._put_bytes += len(data)
            look = self._put_bytes >= SWEEP_BYTES
            if look:
                self._put_bytes = 0
        if look:
            with suppress(SvdError, OSError):  # it is done again, and by the retention
                self.sweep()

        def ensure() -> None:
            if not self._store.size(name):
                self._store.put(data)

        return name, ensure

    def release(self, name: str) -> None:
        """Remove the photo if no job refers to it any more. Raises `QueueUnavailable`."""
        with self._table.database.write() as connection:
            lock_line(connection)
            count = select(func.count()).select_from(JOBS).where(JOBS.c.image == name)
            if not connection.scalar(count):
                self._store.remove([name])

    def sweep(self) -> None:
        """Remove photos that nobody refers to, and what ended jobs keep beyond the limit."""
        columns = select(JOBS.c.image, JOBS.c.owner, JOBS.c.state)
        newest_first = columns.where(JOBS.c.image.is_not(None)).order_by(JOBS.c.number.desc())
        with self._table.database.read() as connection:
            rows = connection.execute(newest_first).all()
        needed = {row.image for row in rows if row.state != State.ENDED}
        kept: dict[str, Item] = {}
        for row in rows:
            size = 0 if row.image in needed or row.image in kept else self._store.size(row.image)
            if size:
                kept[row.image] = Item(row.image, row.owner, size)
        room = self._most_bytes - sum(map(self._store.size, needed))
        for name in evict(kept.values(), max(0.0, room)):
            self._detach(name)
        self._store.sweep({row.image for row in rows}, self._most_bytes)

    def _detach(self, name: str) -> None:
        """Take a photo from ended jobs, and remove it unless an open one has come to need it."""
        ended = (JOBS.c.image == name) & (JOBS.c.state == State.ENDED)
        with self._table.database.write() as connection:
            lock_line(connection)
            connection.execute(update(JOBS).where(ended).values(image=None))
        self.release(name)
