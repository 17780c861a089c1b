"""Submitting jobs and waiting for their outcome, as tests of the queue do."""

import time
from collections.abc import Callable

from svd_core.errors import SvdError
from svd_core.events import Event, Failed, Progress, Stage
from svd_core.jobs import Job, JobOptions, JobQueue
from svd_core.params import VideoParams, VideoRequest

SECONDS = 30.0
"""Far more than anything takes on a machine that has nothing else to do."""


def submit(queue: JobQueue, photo: bytes, **options: object) -> Job:
    return queue.submit(VideoRequest(photo, VideoParams(seed=1)), JobOptions(**options))  # type: ignore[arg-type]


def eventually(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.005)


def ending(job: Job) -> Event:
    """The job's only ending, with numbers and times that grow up to it."""
    eventually(lambda: job.done)
    record = job.events_since()
    assert [e.number for e in record] == sorted({e.number for e in record})
    assert [e.at for e in record] == sorted(e.at for e in record)
    assert [isinstance(e.event, Progress) for e in record] == [True] * (len(record) - 1) + [False]
    return record[-1].event


def failure(job: Job) -> SvdError:
    end = ending(job)
    assert isinstance(end, Failed)
    return end.error


def reached(job: Job, stage: Stage = Stage.DENOISING) -> Callable[[], bool]:
    """Whether it has come to `stage` and is still there."""
    return lambda: isinstance(job.last, Progress) and job.last.stage is stage
