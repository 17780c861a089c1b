"""Dependencies that all queue implementations share.

Queue limits and timeouts.
"""

import math
from dataclasses import dataclass
from functools import cached_property

from svd_core.errors import InvalidImage
from svd_core.jobs.interface import Fetch
from svd_core.jobs.retention import JobPhotos
from svd_core.jobs.store import JobTable
from svd_core.storage import PhotoStore


@dataclass(frozen=True)
class QueueLimits:
    """`max_queue`: jobs that may wait. `max_per_owner`: those of one owner; None: as many as all.
    Jobs that belong to nobody share one such number.

    `lease_s`: seconds without a heartbeat after which a worker loses its job.
    `poll_interval_s`: seconds between two syncs with the table. `shutdown_timeout_s`: seconds that
    `close` waits for running work to stop. `photo_bytes`: of all photos together, see `JobPhotos`.
    """

    max_queue: int = 32
    max_per_owner: int | None = None
    lease_s: float = 10.0
    poll_interval_s: float = 1.0
    shutdown_timeout_s: float = 10.0
    photo_bytes: float = math.inf


DEFAULT_LIMITS = QueueLimits()


def no_fetch(_: str) -> bytes:
    raise InvalidImage("This server fetches no addresses; send the photo itself.")


@dataclass(frozen=True)
class QueueContext:
    """`table` and `photos` may be shared by several processes. `fetch` downloads remote
    photos."""

    table: JobTable
    photos: PhotoStore
    limits: QueueLimits = DEFAULT_LIMITS
    fetch: Fetch = no_fetch

    @cached_property
    def job_photos(self) -> JobPhotos:
        """The photos as the table refers to them."""
        return JobPhotos(self.table, self.photos, self.limits.photo_bytes)
