"""Retention: delete finished jobs, videos and photos by age and total size.

Fair eviction: when space runs out, the owner who holds most loses their oldest items first.

Photo lifecycle: reference counting in the table, and a limit for all photos together.

Invariant: no photo that an open job needs is removed, whatever else happens at the same time. A
reference is written, and a photo removed, in a transaction that holds the line; whoever writes a
reference makes sure within it that the file is there.
"""

import heapq
import logging
import math
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import delete, func, select, update

from svd_core.errors import SvdError
from svd_core.jobs.schema import JOBS, OUTBOX, State
from svd_core.jobs.store import JobTable, lock_line
from svd_core.storage import PhotoStore, ResultStore


class Item(NamedTuple):
    """Something that takes room. `size`: in the unit of the limit, above 0."""

    name: str
    owner: str
    size: int


def evict(newest_first: Iterable[Item], limit: float) -> list[str]:
    """The names that have to go so that at most `most` is left. The very newest stays in any case,
    since somebody waits for it."""
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
    gone = []
    while total > limit and heap:
        _, owner = heapq.heappop(heap)
        oldest = queues[owner].pop()
        if oldest.name != newest:
            gone.append(oldest.name)
            total -= oldest.size
            sums[owner] -= oldest.size
        if queues[owner]:
            heapq.heappush(heap, (-sums[owner], owner))
    return gone


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


MAX_ROWS = 100_000
"""Ended jobs kept at most, since failures have no size; that is some 200 MB of table. As many
refused requests, of which each owner has `MAX_REJECTED`."""

BATCH = 500

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retention:
    """`keep_hours`: how long an ended job stays. `keep_gb`: how many gigabytes (10^9 bytes) of
    results stay, and as many of photos, apart from each other. Where there is too much, whoever
    holds the most loses their own oldest first; the newest result stays in any case, somebody waits
    for it."""

    table: JobTable
    results: ResultStore
    photos: PhotoStore
    keep_hours: float
    keep_gb: float

    def sweep(self) -> list[str]:
        """Remove what has had its time. Returns the ids of those jobs.

        A row goes before its file: a file that is left over is found the next time, while a row
        without its file would promise what is not there.
        """
        gone = self._had_their_time()
        self.remove(gone)
        self.results.sweep(self._known, self.keep_hours)
        self._job_photos.sweep()
        return gone

    def remove(self, gone: Sequence[str]) -> None:
        """Remove ended jobs before their time, with their videos, and their photos unless other
        jobs have the same."""
        photos: set[str] = set()
        for start in range(0, len(gone), BATCH):
            batch = gone[start : start + BATCH]
            with self.table.database.write() as connection:
                ended = JOBS.c.id.in_(batch) & (JOBS.c.state == State.ENDED)
                kept = select(JOBS.c.image).where(ended, JOBS.c.image.is_not(None))
                photos |= {name for name in connection.scalars(kept) if name is not None}
                connection.execute(delete(OUTBOX).where(OUTBOX.c.job_id.in_(batch)))
                connection.execute(delete(JOBS).where(ended))
            self.results.remove(batch)
        for name in photos:
            self._job_photos.release(name)

    @property
    def _job_photos(self) -> JobPhotos:
        return JobPhotos(self.table, self.photos, self.keep_gb * 1e9)

    def _had_their_time(self) -> list[str]:
        now = self.table.clock.now()
        columns = select(
            JOBS.c.id, JOBS.c.owner, JOBS.c.ended, JOBS.c.expires, JOBS.c.bytes,
            JOBS.c.params.is_(None).label("refused"),
        )  # fmt: skip
        with self.table.database.read() as connection:
            ended = connection.execute(
                columns.where(JOBS.c.state == State.ENDED).order_by(JOBS.c.ended.desc())
            ).all()
        gone = [
            row.id
            for row in ended
            if now - row.ended > self.keep_hours * 3600 or (row.expires or now) < now
        ]
        over = set(gone)
        left = [row for row in ended if row.id not in over]
        refused = [Item(row.id, row.owner, 1) for row in left if row.refused]
        others = [Item(row.id, row.owner, 1) for row in left if not row.refused]
        playback = self.results.playback_bytes()  # made since the job ended
        videos = [
            Item(row.id, row.owner, row.bytes + playback.get(row.id, 0))
            for row in left
            if row.bytes > 0
        ]
        more = {
            *evict(refused, MAX_ROWS),
            *evict(others, MAX_ROWS),
            *evict(videos, self.keep_gb * 1e9),
        }
        return gone + [row.id for row in left if row.id in more]

    def _known(self, ids: Collection[str]) -> set[str]:
        """Those of `ids` that are in the table."""
        with self.table.database.read() as connection:
            return set(connection.scalars(select(JOBS.c.id).where(JOBS.c.id.in_(ids))))
