"""Server-sent events: follow a job and stream its progress."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from anyio import sleep
from starlette.responses import Response, StreamingResponse

from svd_core.events import Event, Progress, Stage
from svd_core.jobs import Job, JobEvent
from svd_core.web.fal.responses import as_json

POLL_S = 0.1
"""Seconds between two looks at a job that somebody waits for."""

KEEPALIVE_S = 15.0
"""After so long without news a stream shows that it is alive; Node ends silent ones at 300 s."""

KEEPALIVE = b": still here\n\n"


async def follow(job: Job, silence_s: float) -> AsyncGenerator[Sequence[JobEvent]]:
    """What is new of `job`, until it has ended; nothing after every `silence_s` without news."""
    seen, heard, last = 0, time.monotonic(), None
    while True:
        fresh = []
        for job_event in job.events_since(seen):  # at once, since it is not to wait for any
            seen = job_event.number
            if _progress_key(job_event.event) != last:
                last = _progress_key(job_event.event)
                fresh.append(job_event)
        if fresh or time.monotonic() - heard > silence_s:
            heard = time.monotonic()
            yield fresh
        if fresh and not isinstance(fresh[-1].event, Progress):
            return
        await sleep(POLL_S)


def _progress_key(event: Event) -> object:
    """Where a job stands. Signs of life in between, which differ in seconds left, are no news."""
    if not isinstance(event, Progress):
        return event
    counted = event.step if event.stage in (Stage.QUEUED, Stage.DENOISING) else None
    return event.stage, counted, event.note


def encode_event(body: Any) -> bytes:
    """`body` as one server-sent event."""
    return b"data: " + as_json(body) + b"\n\n"


def event_stream(request_id: str, events: AsyncIterator[bytes]) -> Response:
    headers = {"X-Fal-Request-Id": request_id, "Cache-Control": "no-cache"}
    return StreamingResponse(events, headers=headers, media_type="text/event-stream")
