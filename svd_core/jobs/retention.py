"""Retention: delete finished jobs, videos and photos by age and total size."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, select

from svd_core.jobs.eviction import Item, evict
from svd_core.jobs.photos import JobPhotos
from svd_core.jobs.schema import JOBS, OUTBOX, State
from svd_core.jobs.store import JobTable
from svd_core.storage import PhotoStore, ResultStore

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
