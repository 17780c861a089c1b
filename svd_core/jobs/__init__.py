"""Jobs: who waits, who runs, what each has reported. Everything outside knows `JobQueue` only."""

from svd_core.jobs.inline import InlineQueue, InlineWork
from svd_core.jobs.local import LocalQueue, Work
from svd_core.jobs.protocol import (
    Cancellation,
    Fetch,
    Job,
    JobOptions,
    JobQueue,
    Priority,
    RemoteRequest,
    Send,
    Stamped,
    Times,
    Undeliverable,
)

__all__ = [
    "Cancellation",
    "Fetch",
    "InlineQueue",
    "InlineWork",
    "Job",
    "JobOptions",
    "JobQueue",
    "LocalQueue",
    "Priority",
    "RemoteRequest",
    "Send",
    "Stamped",
    "Times",
    "Undeliverable",
    "Work",
]
