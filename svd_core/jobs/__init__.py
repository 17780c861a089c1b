"""The durable job queue: submit, follow, cancel. Its protocols are in `interface`."""

from svd_core.jobs.config import QueueContext, QueueLimits
from svd_core.jobs.database import Database
from svd_core.jobs.executor import Executor, ExecutorLost, LocalExecutor
from svd_core.jobs.inline import InlineQueue
from svd_core.jobs.interface import (
    Cancellation,
    Fetch,
    InlineWork,
    Job,
    JobEvent,
    JobOptions,
    JobQueue,
    Priority,
    RemoteRequest,
    Send,
    Times,
    Undeliverable,
    Work,
)
from svd_core.jobs.job import MAX_WATCHERS
from svd_core.jobs.owner_lock import OwnerLock
from svd_core.jobs.queue import TableQueue
from svd_core.jobs.retention import Retention
from svd_core.jobs.store import JobTable
from svd_core.jobs.webhook_outbox import Outbox
from svd_core.jobs.worker import WorkerQueue

__all__ = [
    "MAX_WATCHERS",
    "Cancellation",
    "Database",
    "Executor",
    "ExecutorLost",
    "Fetch",
    "InlineQueue",
    "InlineWork",
    "Job",
    "JobOptions",
    "JobQueue",
    "JobTable",
    "LocalExecutor",
    "QueueLimits",
    "Outbox",
    "OwnerLock",
    "QueueContext",
    "Priority",
    "RemoteRequest",
    "Retention",
    "Send",
    "JobEvent",
    "TableQueue",
    "Times",
    "Undeliverable",
    "Work",
    "WorkerQueue",
]
