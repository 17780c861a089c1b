"""Retention: delete finished jobs, videos and photos by age and total size; see `eviction`.

The table holds the references to photos. Invariant: no photo that an open job needs is removed.
Transactions that write happen one after the other, and so does the removal of photos. The writer
of a reference ensures within its transaction that the file exists.
"""

import math
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType

from sqlalchemy import ColumnElement, and_, delete, func, literal, not_, or_, select, update

from svd_core.errors import SvdError
from svd_core.eviction import Item, evict
from svd_core.jobs.schema import JOBS, OUTBOX, State
from svd_core.jobs.store import JobTable
from svd_core.storage import PhotoStore, ResultStore

SWEEP_BYTES = 64 * 2**20
"""Bytes of new photos after which their total is checked."""


class JobPhotos:
    """Photos in `store` that `table` refers to. Safe to use from any thread.

    `most_bytes`: limit of all photos together. Those of open jobs stay even beyond it, since the
    length of the line limits them.
    """

    def __init__(self, table: JobTable, store: PhotoStore, most_bytes: float = math.inf) -> None:
        self._table = table
        self.store = store
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._put_bytes = 0

    def put(self, data: bytes) -> tuple[str, Callable[[], None]]:
        """Store a photo. Returns its name, and a callback that ensures that the file exists, to be
        called in the transaction that refers to it. Raises `StorageFull`, `ServerBusy`."""
        name = self.store.put(data)
        with self._lock:
            self._put_bytes += len(data)
            sweep_due = self._put_bytes >= SWEEP_BYTES
            self._put_bytes %= SWEEP_BYTES
        if sweep_due:
            with suppress(SvdError, OSError):  # `Retention` sweeps again
                self.sweep()

        def ensure() -> None:
            if not self.store.size(name):
                self.store.put(data)

        return name, ensure

    def release(self, name: str) -> None:
        """Remove the photo unless a job refers to it. Raises `QueueUnavailable`."""
        with self._table.database.write() as connection:
            count = select(func.count()).select_from(JOBS).where(JOBS.c.image == name)
            if not connection.scalar(count):
                self.store.remove([name])

    def sweep(self) -> None:
        """Remove photos without a reference, and those of ended jobs beyond the limit."""
        columns = select(JOBS.c.image, JOBS.c.owner, JOBS.c.state)
        newest_first = columns.where(JOBS.c.image.is_not(None)).order_by(JOBS.c.number.desc())
        with self._table.database.read() as connection:
            rows = connection.execute(newest_first).all()
        needed = {row.image for row in rows if row.state != State.ENDED}
        kept: dict[str, Item] = {}
        for row in rows:
            size = 0 if row.image in needed or row.image in kept else self.store.size(row.image)
            if size:
                kept[row.image] = Item(row.image, row.owner, size)
        room = self._most_bytes - sum(map(self.store.size, needed))
        for name in evict(kept.values(), max(0.0, room)):
            self._detach(name)
        self.store.sweep({row.image for row in rows}, self._most_bytes)

    def _detach(self, name: str) -> None:
        """Remove a photo from ended jobs, and from the disk unless an open job refers to it now."""
        ended = (JOBS.c.image == name) & (JOBS.c.state == State.ENDED)
        with self._table.database.write() as connection:
            connection.execute(update(JOBS).where(ended).values(image=None))
        self.release(name)


MAX_ROWS = 100_000
"""Ended jobs kept at most, some 200 MB of table, since failures have no size. The same for rejected
requests, of which each owner has `MAX_REJECTED`."""

BATCH = 500

ENDED = JOBS.c.state == State.ENDED
ONE: ColumnElement[int] = literal(1)


@dataclass(frozen=True)
class Retention:
    """Limits for ended jobs and their files.

    `keep_hours`: how long an ended job stays. `keep_gb`: limit of all results, in gigabytes (10^9
    bytes); that of photos is separate. For what goes first see `evict`.
    """

    table: JobTable
    results: ResultStore
    photos: JobPhotos
    keep_hours: float
    keep_gb: float

    def sweep(self) -> list[str]:
        """Remove what is too old or too much. Returns the ids of those jobs.

        A row goes before its file: the next sweep finds a file without its row, but a row without
        its file would offer a video that does not exist.
        """
        expired = self._expired()
        self.remove(expired)
        self.results.sweep(self._known, self.keep_hours)
        self.photos.sweep()
        return expired

    def remove(self, ids: Sequence[str]) -> None:
        """Remove ended jobs with their videos, and those photos that no other job refers to."""
        photos: set[str] = set()
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            with self.table.database.write() as connection:
                ended = JOBS.c.id.in_(batch) & (JOBS.c.state == State.ENDED)
                images = select(JOBS.c.image).where(ended, JOBS.c.image.is_not(None))
                photos |= {name for name in connection.scalars(images) if name is not None}
                connection.execute(delete(OUTBOX).where(OUTBOX.c.job_id.in_(batch)))
                connection.execute(delete(JOBS).where(ended))
            self.results.remove(batch)
        for name in photos:
            self.photos.release(name)

    def _expired(self) -> list[str]:
        """Ids of the ended jobs that are too old or too much.

        The database selects and adds up, since listing 100,000 rows here would take memory that
        the process never gives back.
        """
        now = self.table.clock.now()
        too_old = or_(JOBS.c.ended < now - self.keep_hours * 3600, JOBS.c.expires < now)
        expired = select(JOBS.c.id).where(ENDED, too_old)
        with self.table.database.read() as connection:
            ids = list(connection.scalars(expired))
        left = and_(ENDED, not_(func.coalesce(too_old, False)))
        rejected, request = JOBS.c.params.is_(None), JOBS.c.params.is_not(None)
        playback = self.results.playback_bytes()  # made since the job ended
        evicted = [
            *self._evict(and_(left, rejected), MAX_ROWS),
            *self._evict(and_(left, request), MAX_ROWS),
            *self._evict(and_(left, JOBS.c.bytes > 0), self.keep_gb * 1e9, JOBS.c.bytes, playback),
        ]
        return list(dict.fromkeys(ids + evicted))

    def _evict(
        self,
        jobs: ColumnElement[bool],
        limit: float,
        size: ColumnElement[int] = ONE,
        more: Mapping[str, int] = MappingProxyType({}),
    ) -> list[str]:
        """Ids of the `jobs` to remove for the sum of `size` to be within `limit`. `more`: to be
        added to the sizes, by id."""
        items = select(JOBS.c.id, JOBS.c.owner, size).where(jobs).order_by(JOBS.c.ended.desc())
        with self.table.database.read() as connection:
            total = connection.scalar(select(func.sum(size)).where(jobs)) or 0
            if total + sum(more.values()) <= limit:
                return []
            return evict(
                (
                    Item(job_id, owner, count + more.get(job_id, 0))
                    for job_id, owner, count in connection.execute(items)
                ),
                limit,
            )

    def _known(self, ids: Collection[str]) -> set[str]:
        """Those of `ids` that are in the table."""
        with self.table.database.read() as connection:
            return set(connection.scalars(select(JOBS.c.id).where(JOBS.c.id.in_(ids))))
