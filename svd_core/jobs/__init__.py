"""The durable job queue: submit, follow, cancel. One process owns it."""

from svd_core.events import JobEvent
from svd_core.jobs.executor import Executor, ExecutorLost, LocalExecutor
from svd_core.jobs.inline import InlineQueue
from svd_core.jobs.interface import Cancellation, JobOptions, RemoteRequest
from svd_core.jobs.job import MAX_WATCHERS, Job
from svd_core.jobs.queue import JobQueue, QueueContext, QueueLimits
from svd_core.jobs.retention import Retention
from svd_core.jobs.store import JobTable
from svd_core.jobs.webhook_outbox import Outbox, Undeliverable
from svd_core.jobs.worker import WorkerQueue

__all__ = [
    "MAX_WATCHERS",
    "Cancellation",
    "Executor",
    "ExecutorLost",
    "InlineQueue",
    "Job",
    "JobEvent",
    "JobOptions",
    "JobQueue",
    "JobTable",
    "LocalExecutor",
    "Outbox",
    "QueueContext",
    "QueueLimits",
    "RemoteRequest",
    "Retention",
    "Undeliverable",
    "WorkerQueue",
]
