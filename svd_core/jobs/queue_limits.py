"""How many jobs a queue takes, and how long it waits for what."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """`max_queue`: jobs that may wait. `max_per_owner`: those of one owner; None: as many as all.
    Jobs that belong to nobody share one such number.

    `lease_s`: seconds after which a worker that shows no sign of life has lost its job. `every_s`:
    seconds between two looks at what other processes did. `patience_s`: seconds that `close` waits
    for the work under way to notice. `photo_bytes`: of all photos together, see `JobPhotos`.
    """

    max_queue: int = 32
    max_per_owner: int | None = None
    lease_s: float = 10.0
    every_s: float = 1.0
    patience_s: float = 10.0
    photo_bytes: float = math.inf


USUAL_LIMITS = Limits()
