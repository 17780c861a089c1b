"""Jobs: who waits, who runs, what each has reported. Everything outside knows `JobQueue` only."""

from svd_core.jobs.inline import InlineQueue, InlineWork
from svd_core.jobs.local import LocalQueue, Work
from svd_core.jobs.protocol import Job, JobQueue

__all__ = ["InlineQueue", "InlineWork", "Job", "JobQueue", "LocalQueue", "Work"]
