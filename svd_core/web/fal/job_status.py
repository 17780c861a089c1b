"""Job status and outcome as fal's clients read them, and their server-sent events.

The status has a word, the queue position and the log. The outcome is the response of the result
call and of the sync call, and the payload of the webhook.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from anyio import sleep
from starlette.responses import Response, StreamingResponse

from svd_core.errors import Cancelled
from svd_core.events import Event, Failed, Progress, Stage, Stopped, Succeeded, Video
from svd_core.jobs import Job, JobEvent
from svd_core.web.fal.responses import NOT_FOUND, ApiResponse, as_json, error_response, input_error
from svd_core.web.fal.signed_tokens import UrlBuilder
from svd_core.web.job_metadata import read_memo

POLL_S = 0.1
"""Seconds between two polls of a job that a request follows."""

KEEPALIVE_S = 15.0
"""Seconds of silence until a stream sends `KEEPALIVE`; Node ends silent streams after 300 s."""

KEEPALIVE = b": still here\n\n"

STAGE_LINES = {
    Stage.FETCHING: "Fetching the photo",
    Stage.LOADING: "Loading the model",
    Stage.ENCODING: "Encoding the photo",
    Stage.DENOISING: "Denoising",
    Stage.DECODING: "Decoding the frames",
    Stage.WRITING: "Writing the video",
}

Payload = dict[str, Any]
LogLine = dict[str, Any]

UNFINISHED = ApiResponse(400, {"detail": "Request is still in progress"})


def outcome_response(job: Job, urls: UrlBuilder, base: str) -> ApiResponse:
    """The response to a call for the result. `base`: beginning of the URLs in it."""
    match job.last:
        case Progress():
            return UNFINISHED
        case Succeeded(video):
            return _video_response(job, video, urls, base)
        case Failed(error):
            details = read_memo(job).get("details")
            return input_error(details) if details else error_response(error)
        case Stopped():
            return error_response(Cancelled("request_cancelled"))


def _video_response(job: Job, video: Video, urls: UrlBuilder, base: str) -> ApiResponse:
    try:
        size = video.path.stat().st_size
    except OSError:  # it has been deleted
        return NOT_FOUND
    file = {
        "url": urls.video(base, job.id),
        "content_type": "video/mp4",
        "file_name": f"{job.id}.mp4",
        "file_size": size,
    }
    return ApiResponse(200, {"video": file, "seed": video.seed})


def status_payload(
    job: Job, last: Event, urls: dict[str, str], log: list[LogLine] | None, end: ApiResponse | None
) -> Payload:
    """The status of `job` when `last` was its newest event.

    `urls`: see `job_urls`. `log`: lines; None if the caller wants none. `end`: the outcome of a job
    that is done.
    """
    payload: Payload = {"status": "IN_PROGRESS", "request_id": job.id, **urls}
    if not isinstance(last, Progress):
        payload["status"] = "COMPLETED"
    elif last.stage is Stage.QUEUED:
        payload |= {"status": "IN_QUEUE", "queue_position": last.step}
    payload["logs"] = log
    if end is not None:
        payload["metrics"] = job_metrics(job)
        if end.status >= 400:
            payload |= _error_fields(end.body)
    return payload


def job_urls(base: str, endpoint: str, job_id: str) -> dict[str, str]:
    """URLs of a job. Clients also build them, in exactly this form."""
    url = f"{base}/queue/{endpoint}/requests/{job_id}"
    return {"response_url": url, "status_url": f"{url}/status", "cancel_url": f"{url}/cancel"}


def job_metrics(job: Job) -> dict[str, float]:
    """Seconds that the newest attempt took; empty for a job that has not run."""
    times = job.times
    if times.started is None or times.ended is None:
        return {}
    return {"inference_time": round((times.ended - times.started).total_seconds(), 3)}


def log_lines(events: Sequence[JobEvent]) -> list[LogLine]:
    """The lines of the log, as fal's clients read them."""
    return [line for job_event in events if (line := _log_line(job_event)) is not None]


def _log_line(job_event: JobEvent) -> LogLine | None:
    """The line of one event; None for waiting."""
    match job_event.event:
        case Progress(stage=Stage.QUEUED):
            return None
        case Progress():
            return _progress_line(job_event.without_preview())
        case Succeeded(video):
            return _make_line(job_event.at, f"Done in {video.elapsed_s:.1f} s")
        case Failed(error):
            return _make_line(job_event.at, error.message, "ERROR")
        case Stopped():
            return _make_line(job_event.at, "Cancelled")


@lru_cache(maxsize=1024)
def _progress_line(job_event: JobEvent) -> LogLine:
    """Cached, since each poll sends all lines again."""
    assert isinstance(job_event.event, Progress)
    return _make_line(job_event.at, _message(job_event.event))


def _make_line(at: datetime, message: str, level: str = "INFO") -> LogLine:
    return {
        "message": message,
        "level": level,
        "source": "USER",
        "timestamp": at.isoformat(timespec="milliseconds"),
    }


def _message(progress: Progress) -> str:
    line = STAGE_LINES[progress.stage]
    if progress.stage is Stage.DENOISING and progress.total:
        line = f"{line}: step {progress.step} of {progress.total}"
    return f"{line}. {progress.note}" if progress.note else line


def _error_fields(body: Any) -> Payload:
    """What a status says of the error in the body of an outcome."""
    detail = body.get("detail", "")
    if isinstance(detail, list):
        message, kind, code = detail[0]["msg"], detail[0]["type"], detail[0].get("code")
    else:
        message, kind, code = detail, body.get("error_type", ""), body.get("error_code")
    fields = {"error": message, "error_type": kind}
    return fields | {"error_code": code} if code else fields


async def follow(job: Job, silence_s: float) -> AsyncGenerator[Sequence[JobEvent]]:
    """Yield the new events of `job` until it ends, and nothing after `silence_s` without any."""
    seen, sent_at, last = 0, time.monotonic(), None
    while True:
        fresh = []
        for job_event in job.events_since(seen):  # never blocks the event loop
            seen = job_event.number
            if _progress_key(job_event.event) != last:
                last = _progress_key(job_event.event)
                fresh.append(job_event)
        if fresh or time.monotonic() - sent_at > silence_s:
            sent_at = time.monotonic()
            yield fresh
        if fresh and not isinstance(fresh[-1].event, Progress):
            return
        await sleep(POLL_S)


def _progress_key(event: Event) -> object:
    """Identity of an event: progress that differs in the remaining time only is not new."""
    if not isinstance(event, Progress):
        return event
    counted = event.step if event.stage in (Stage.QUEUED, Stage.DENOISING) else None
    return event.stage, counted, event.note


def encode_event(body: Any) -> bytes:
    """Encode `body` as one server-sent event."""
    return b"data: " + as_json(body) + b"\n\n"


def event_stream(request_id: str, events: AsyncIterator[bytes]) -> Response:
    """Response that streams `events`."""
    headers = {"X-Fal-Request-Id": request_id, "Cache-Control": "no-cache"}
    return StreamingResponse(events, headers=headers, media_type="text/event-stream")
