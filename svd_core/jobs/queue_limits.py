"""Queue limits and timeouts."""

import math
from dataclasses import dataclass


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
