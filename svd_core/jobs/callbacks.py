"""Work callbacks of a queue, and the outcome that an error of theirs means for the job."""

import logging
from collections.abc import Callable, Generator

from svd_core.errors import Cancelled, GenerationFailed, OutOfMemory, SvdError, busy_if_passing
from svd_core.events import Failed, OnProgress, Progress, Stopped, Video
from svd_core.params import VideoRequest

Work = Callable[[str, VideoRequest, OnProgress], Video]
"""Makes the video of (job id, request). It stops when the progress callback raises `Cancelled`. It
may be done again for the same job, after the process that did it died."""

InlineWork = Callable[[str, VideoRequest], Generator[Progress | Video]]
"""Yields `Progress*`, then the `Video`. Closing the generator stops it and frees the device."""

log = logging.getLogger(__name__)


def error_to_outcome(job_id: str, error: Exception) -> Failed | Stopped:
    """How a job ends whose work raised `error`. What nobody foresaw is logged with its trace.

    An error that is `passing`, or was caused by a fault that passes, is no end yet where the job
    can be tried again.
    """
    if isinstance(error, Cancelled):
        return Stopped()
    known = isinstance(error, OutOfMemory) or getattr(error, "passing", False)
    if not known and (busy := busy_if_passing(error)) is not None:
        log.warning("Job %s met a fault that passes: %s", job_id, error)
        return Failed(busy)
    if isinstance(error, SvdError):
        return Failed(_without_trace(error))
    log.error("Job %s ended by an unforeseen error.", job_id, exc_info=error)
    return Failed(
        GenerationFailed(
            "Something unforeseen went wrong, so there is no video; please try again. "
            f"If it happens again, tell whoever runs this server the job number {job_id[:8]}."
        )
    )


def _without_trace(error: SvdError) -> SvdError:
    """The error of a job is kept for hours, and its trace would keep all that was in memory."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
