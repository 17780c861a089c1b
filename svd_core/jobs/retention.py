"""What is too old or too much goes: rows of ended jobs, with their videos and their photos."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, select

from svd_core.jobs.schema import JOBS, OUTBOX, State
from svd_core.jobs.table import JobTable
from svd_core.storage import PhotoStore, ResultStore

MAX_ROWS = 100_000
"""Ended jobs kept at most, since failures have no size; that is some 200 MB of table."""

BATCH = 500

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retention:
    """`keep_hours`: how long an ended job stays. `keep_gb`: how many gigabytes (10^9 bytes) of
    results stay, the oldest going first; the newest stays in any case, somebody waits for it. As
    many of photos stay, whether they were sent or fetched, besides those of open jobs."""

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
        self.photos.sweep(self._photos(), self.keep_gb * 1e9)
        return gone

    def remove(self, gone: Sequence[str]) -> None:
        """Remove ended jobs, with their videos, before their time."""
        for start in range(0, len(gone), BATCH):
            batch = gone[start : start + BATCH]
            with self.table.database.write() as connection:
                connection.execute(delete(OUTBOX).where(OUTBOX.c.job_id.in_(batch)))
                ended = JOBS.c.id.in_(batch) & (JOBS.c.state == State.ENDED)
                connection.execute(delete(JOBS).where(ended))
            self.results.remove(batch)

    def _had_their_time(self) -> list[str]:
        now = self.table.clock.now()
        columns = select(JOBS.c.id, JOBS.c.ended, JOBS.c.expires, JOBS.c.bytes, JOBS.c.image)
        with self.table.database.read() as connection:
            ended = connection.execute(
                columns.where(JOBS.c.state == State.ENDED).order_by(JOBS.c.ended.desc())
            ).all()
        gone, room, videos = [], self.keep_gb * 1e9, 0
        playback = self.results.playback_bytes()  # made since the job ended
        for index, row in enumerate(ended):
            room -= row.bytes + (0 if row.image is None else self.photos.size(row.image))
            room -= playback.get(row.id, 0)
            videos += row.bytes > 0
            too_much = room < 0 and row.bytes > 0 and videos > 1
            too_old = now - row.ended > self.keep_hours * 3600
            if too_much or too_old or index >= MAX_ROWS or (row.expires or now) < now:
                gone.append(row.id)
        return gone

    def _known(self, ids: Collection[str]) -> set[str]:
        """Those of `ids` that are in the table."""
        with self.table.database.read() as connection:
            return set(connection.scalars(select(JOBS.c.id).where(JOBS.c.id.in_(ids))))

    def _photos(self) -> set[str]:
        """Uploads that jobs still need."""
        with self.table.database.read() as connection:
            found = connection.scalars(select(JOBS.c.image).where(JOBS.c.image.is_not(None)))
            return {name for name in found if name is not None}
