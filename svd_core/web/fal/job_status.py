"""The state of a job as fal's clients read it: three words, a place in line, lines of a log."""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from svd_core.events import Event, Failed, Progress, Stage, Stopped, Succeeded
from svd_core.jobs import Job, JobEvent
from svd_core.web.fal.responses import Answer

LINES = {
    Stage.FETCHING: "Fetching the photo",
    Stage.LOADING: "Loading the model",
    Stage.ENCODING: "Encoding the photo",
    Stage.DENOISING: "Denoising",
    Stage.DECODING: "Decoding the frames",
    Stage.WRITING: "Writing the video",
}

Entry = dict[str, Any]


def status_of(
    job: Job, last: Event, urls: dict[str, str], log: list[Entry] | None, end: Answer | None
) -> Entry:
    """What `job` is told to be when `last` was its newest event.

    `urls`: see `urls_of`. `log`: lines, or None where none were asked for. `end`: the result, for a
    job that is done.
    """
    told: Entry = {"status": word_of(last), "request_id": job.id, **urls}
    if isinstance(last, Progress) and last.stage is Stage.QUEUED:
        told["queue_position"] = last.step
    told["logs"] = log
    if end is not None:
        told["metrics"] = metrics_of(job)
        if end.status >= 400:
            told["error"] = _sentence(end.body)
            told["error_type"] = _kind(end.body)
    return told


def word_of(event: Event) -> str:
    if not isinstance(event, Progress):
        return "COMPLETED"
    return "IN_QUEUE" if event.stage is Stage.QUEUED else "IN_PROGRESS"


def urls_of(base: str, endpoint: str, job_id: str) -> dict[str, str]:
    """The addresses of a job, exactly as clients build them by themselves."""
    url = f"{base}/queue/{endpoint}/requests/{job_id}"
    return {"response_url": url, "status_url": f"{url}/status", "cancel_url": f"{url}/cancel"}


def metrics_of(job: Job) -> dict[str, float]:
    times = job.times
    if times.started is None or times.ended is None:
        return {}
    return {"inference_time": round((times.ended - times.started).total_seconds(), 3)}


def log_of(news: Sequence[JobEvent]) -> list[Entry]:
    return [entry for stamped in news if (entry := _entry(stamped)) is not None]


def _entry(stamped: JobEvent) -> Entry | None:
    """A line of the log; waiting is not worth one."""
    match stamped.event:
        case Progress(stage=Stage.QUEUED):
            return None
        case Progress():
            return _underway(stamped.without_preview())
        case Succeeded(video):
            return _logged(stamped.at, f"Done in {video.elapsed_s:.1f} s")
        case Failed(error):
            return _logged(stamped.at, error.message, "ERROR")
        case Stopped():
            return _logged(stamped.at, "Cancelled")


@lru_cache(maxsize=1024)
def _underway(stamped: JobEvent) -> Entry:
    """Remembered, since each poll tells all lines again."""
    assert isinstance(stamped.event, Progress)
    return _logged(stamped.at, _line(stamped.event))


def _logged(at: datetime, message: str, level: str = "INFO") -> Entry:
    return {
        "message": message,
        "level": level,
        "source": "USER",
        "timestamp": at.isoformat(timespec="milliseconds"),
    }


def _line(progress: Progress) -> str:
    line = LINES[progress.stage]
    if progress.stage is Stage.DENOISING and progress.total:
        line = f"{line}: step {progress.step} of {progress.total}"
    return f"{line}. {progress.note}" if progress.note else line


def _sentence(body: Any) -> str:
    detail = body.get("detail", "")
    return str(detail[0]["msg"]) if isinstance(detail, list) else str(detail)


def _kind(body: Any) -> str:
    detail = body.get("detail")
    return str(detail[0]["type"] if isinstance(detail, list) else body.get("error_type", ""))
