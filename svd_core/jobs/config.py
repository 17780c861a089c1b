"""Dependencies that all queue implementations share."""

from dataclasses import dataclass
from functools import cached_property

from svd_core.errors import InvalidImage
from svd_core.jobs.interface import Fetch
from svd_core.jobs.photos import JobPhotos
from svd_core.jobs.queue_limits import DEFAULT_LIMITS, QueueLimits
from svd_core.jobs.store import JobTable
from svd_core.storage import PhotoStore


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
