"""Retention: delete finished jobs, videos and photos by age and total size.

Eviction is fair: the owner who holds most loses their oldest item first.

Invariant: no photo that an open job needs is removed.
"""

import heapq
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, delete, func, literal, not_, or_, select, update

from svd_core.jobs.schema import JOBS, OUTBOX, PHOTOS, State
from svd_core.jobs.store import JobTable, drop_photos
from svd_core.storage import ResultStore

MAX_ROWS = 100_000
"""Most ended jobs, about 200 MB of table, since `keep_gb` does not limit failures. As many rejected
requests are kept, of which each owner has at most `MAX_REJECTED`."""

BATCH = 500

ENDED = JOBS.c.state == State.ENDED
ONE: ColumnElement[int] = literal(1)


@dataclass(frozen=True)
class Retention:
    """Limits for ended jobs and their files.

    `keep_hours`: age at which ended jobs are removed. `keep_gb`: limit of all results, and another
    one of all photos, in gigabytes (10^9 bytes).
    """

    table: JobTable
    results: ResultStore
    keep_hours: float
    keep_gb: float

    def sweep(self) -> list[str]:
        """Remove jobs beyond the limits. Returns their ids.

        A row is removed before its file. The next sweep finds a file without a row, but a row
        without its file would offer a video that does not exist.
        """
        expired = self._expired()
        self.remove(expired)
        self.results.sweep(self._known, self.keep_hours)
        self.sweep_photos()
        self.table.database.shrink()
        return expired

    def remove(self, ids: Sequence[str]) -> None:
        """Remove ended jobs with their videos, and photos that no other job refers to."""
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            with self.table.database.write() as connection:
                ended = JOBS.c.id.in_(batch) & ENDED
                images = select(JOBS.c.image).where(ended, JOBS.c.image.is_not(None))
                photos = {name for name in connection.scalars(images) if name is not None}
                connection.execute(delete(OUTBOX).where(OUTBOX.c.job_id.in_(batch)))
                connection.execute(delete(JOBS).where(ended))
                drop_photos(connection, photos)
            self.results.remove(batch)

    def sweep_photos(self) -> None:
        """Remove photos of ended jobs until all photos are within the limit.

        Those of open jobs stay; the length of the line limits them.
        """
        columns = select(JOBS.c.image, JOBS.c.owner, JOBS.c.state, PHOTOS.c.bytes)
        photos = columns.join(PHOTOS, PHOTOS.c.name == JOBS.c.image)
        with self.table.database.read() as connection:
            if (connection.scalar(select(func.sum(PHOTOS.c.bytes))) or 0) <= self.keep_gb * 1e9:
                return
            rows = connection.execute(photos.order_by(JOBS.c.number.desc())).all()
        needed = {row.image: row.bytes for row in rows if row.state != State.ENDED}
        kept: dict[str, Item] = {}
        for row in rows:
            if row.image not in needed and row.bytes:
                kept.setdefault(row.image, Item(row.image, row.owner, row.bytes))
        room = self.keep_gb * 1e9 - sum(needed.values())
        for name in evict(kept.values(), max(0.0, room)):
            self._detach(name)

    def _detach(self, name: str) -> None:
        """Remove a photo from ended jobs, and from the table unless an open job needs it."""
        with self.table.database.write() as connection:
            connection.execute(update(JOBS).where(ENDED, JOBS.c.image == name).values(image=None))
            drop_photos(connection, [name])

    def _expired(self) -> list[str]:
        """Ids of the ended jobs beyond the limits.

        The database selects and sums, since the process would never return the memory of 100,000
        rows.
        """
        now = self.table.clock.now()
        too_old = or_(JOBS.c.ended < now - self.keep_hours * 3600, JOBS.c.expires < now)
        expired = select(JOBS.c.id).where(ENDED, too_old)
        with self.table.database.read() as connection:
            ids = list(connection.scalars(expired))
        left = and_(ENDED, not_(func.coalesce(too_old, False)))
        rejected, request = JOBS.c.params.is_(None), JOBS.c.params.is_not(None)
        playback = self.results.playback_bytes()  # of files made after the job ended
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
        """Ids of the `jobs` to remove until the sum of `size` is within `limit`.

        `more`: additional sizes, by id.
        """
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


class Item(NamedTuple):
    """An item that uses space. `size`: above 0, in the unit of the limit."""

    name: str
    owner: str
    size: int


def evict(newest_first: Iterable[Item], limit: float) -> list[str]:
    """Names of the items to remove so that at most `limit` is left.

    The newest item of all stays, since a user waits for it.
    """
    queues: defaultdict[str, deque[Item]] = defaultdict(deque)
    sums: defaultdict[str, int] = defaultdict(int)
    newest: str | None = None
    for item in newest_first:
        newest = item.name if newest is None else newest
        queues[item.owner].append(item)
        sums[item.owner] += item.size
    total = sum(sums.values())
    heap = [(-size, owner) for owner, size in sums.items()]
    heapq.heapify(heap)
    evicted = []
    while total > limit and heap:
        _, owner = heapq.heappop(heap)
        oldest = queues[owner].pop()
        if oldest.name != newest:
            evicted.append(oldest.name)
            total -= oldest.size
            sums[owner] -= oldest.size
        if queues[owner]:
            heapq.heappush(heap, (-sums[owner], owner))
    return evicted
