"""Jobs: who waits, who runs, what each has reported. Everything outside knows `JobQueue` only."""

from svd_core.jobs.inline import InlineQueue
from svd_core.jobs.local import LocalQueue
from svd_core.jobs.protocol import Job, JobQueue

__all__ = ["InlineQueue", "Job", "JobQueue", "LocalQueue"]
