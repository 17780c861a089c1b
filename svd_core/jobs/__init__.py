"""The durable job queue: submit, follow, cancel. One process owns it."""

from svd_core.jobs.config import QueueContext, QueueLimits
from svd_core.jobs.database import Database
from svd_core.jobs.executor import Executor, ExecutorLost, LocalExecutor, run_as_stream
from svd_core.jobs.inline import InlineQueue
from svd_core.jobs.interface import (
    Cancellation,
    EventStream,
    Fetch,
    JobEvent,
    JobOptions,
    Priority,
    RemoteRequest,
    Times,
    Work,
)
from svd_core.jobs.job import MAX_WATCHERS, Job
from svd_core.jobs.owner_lock import OwnerLock
from svd_core.jobs.queue import JobQueue
from svd_core.jobs.retention import Retention
from svd_core.jobs.store import JobTable
from svd_core.jobs.webhook_outbox import Outbox, Send, Undeliverable
from svd_core.jobs.worker import WorkerQueue

__all__ = [
    "MAX_WATCHERS",
    "Cancellation",
    "Database",
    "EventStream",
    "Executor",
    "ExecutorLost",
    "Fetch",
    "InlineQueue",
    "Job",
    "JobEvent",
    "JobOptions",
    "JobQueue",
    "JobTable",
    "LocalExecutor",
    "Outbox",
    "OwnerLock",
    "Priority",
    "QueueContext",
    "QueueLimits",
    "RemoteRequest",
    "Retention",
    "Send",
    "Times",
    "Undeliverable",
    "Work",
    "WorkerQueue",
    "run_as_stream",
]
