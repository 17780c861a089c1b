"""Configuration of a job queue: limits, timeouts, and the stores that it works on."""

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
    """Limits and timeouts of a queue.

    `max_queue`: jobs that may wait. `max_per_owner`: waiting jobs of one owner; None: no limit of
    their own. Jobs without an owner share one such limit. `shutdown_timeout_s`: seconds that
    `close` waits for running work to stop. `photo_bytes`: limit of all photos together, see
    `JobPhotos`.
    """

    max_queue: int = 32
    max_per_owner: int | None = None
    shutdown_timeout_s: float = 10.0
    photo_bytes: float = math.inf


DEFAULT_LIMITS = QueueLimits()


def no_fetch(_: str) -> bytes:
    """Refuse every URL. Raises `InvalidImage`."""
    raise InvalidImage("This server fetches no addresses; send the photo itself.")


@dataclass(frozen=True)
class QueueContext:
    """Dependencies of a queue. `fetch` downloads remote photos."""

    table: JobTable
    photos: PhotoStore
    limits: QueueLimits = DEFAULT_LIMITS
    fetch: Fetch = no_fetch

    @cached_property
    def job_photos(self) -> JobPhotos:
        """Photos with the references that the table has to them."""
        return JobPhotos(self.table, self.photos, self.limits.photo_bytes)
