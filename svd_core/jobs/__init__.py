"""The durable job queue: submit, follow, cancel. One process owns it."""

from svd_core.events import JobEvent as JobEvent
from svd_core.jobs.inline import InlineQueue as InlineQueue
from svd_core.jobs.interface import Cancellation as Cancellation
from svd_core.jobs.interface import Executor as Executor
from svd_core.jobs.interface import ExecutorLost as ExecutorLost
from svd_core.jobs.interface import JobOptions as JobOptions
from svd_core.jobs.interface import RemoteRequest as RemoteRequest
from svd_core.jobs.job import MAX_WATCHERS as MAX_WATCHERS
from svd_core.jobs.job import Job as Job
from svd_core.jobs.queue import JobQueue as JobQueue
from svd_core.jobs.queue import QueueContext as QueueContext
from svd_core.jobs.queue import QueueLimits as QueueLimits
from svd_core.jobs.retention import Retention as Retention
from svd_core.jobs.store import JobTable as JobTable
from svd_core.jobs.webhook_outbox import Outbox as Outbox
from svd_core.jobs.webhook_outbox import Undeliverable as Undeliverable
from svd_core.jobs.worker import LocalExecutor as LocalExecutor
from svd_core.jobs.worker import WorkerQueue as WorkerQueue
