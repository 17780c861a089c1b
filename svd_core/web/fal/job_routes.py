"""Job routes: the queue (submit, status, result, cancel), and run, which waits for the video."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from functools import partial
from typing import Any

from anyio import CancelScope, to_thread
from fastapi import Security
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from svd_core.events import Progress, Stage
from svd_core.jobs import Cancellation, Job
from svd_core.web.fal import openapi
from svd_core.web.fal.auth import owner_of
from svd_core.web.fal.dependencies import ApiService
from svd_core.web.fal.job_status import (
    KEEPALIVE,
    KEEPALIVE_S,
    Payload,
    encode_event,
    event_stream,
    follow,
    job_urls,
    log_lines,
    outcome_response,
    status_payload,
)
from svd_core.web.fal.models import (
    CancelAccepted,
    CancelTooLate,
    Message,
    NotFound,
    QueueStatus,
    Submitted,
    VideoInput,
    VideoOutput,
)
from svd_core.web.fal.openapi import EVENTS, STREAM_TOKEN, FalApi, Logs, Owner, RequestId, Responses
from svd_core.web.fal.responses import CLIENT_DISCONNECTED, NOT_FOUND, ApiError, ApiResponse
from svd_core.web.fal.submit import Options, submit_job

DISCONNECT_POLL_S = 1.0
"""Seconds between two checks whether the caller has disconnected."""

TRUE_WORDS = {"1", "true", "yes", "on"}


class PollRoute(APIRoute):
    """Route of the status, described like the others but called directly.

    Most requests are polls, and FastAPI's dependencies and validation would double their cost.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def poll(request: Request) -> Response:
            logs = request.query_params.get("logs", "")
            response: Response = await self.endpoint(
                request, owner_of(request), request.path_params["request_id"], logs
            )
            return response

        return poll


def add_queue_routes(api: FalApi, service: ApiService, endpoint: str) -> None:
    """Add the routes below `/queue`. `endpoint`: id of the endpoint in the URLs of jobs."""
    urls, prefix = service.context.urls, f"/queue/{endpoint}"
    serve = partial(api.serve, tag="Queue")
    closed = openapi.CLOSED | openapi.UNAVAILABLE
    lookup = closed | openapi.UNKNOWN

    def paths(suffix: str) -> tuple[str, str]:
        """The path of a job, and one with the rest of a longer id, which some clients keep."""
        job = f"requests/{{request_id}}{suffix}"
        return f"{prefix}/{job}", f"{prefix}/{{rest:path}}/{job}"

    @serve(
        "POST", prefix, openapi.BAD_REQUEST, closed, openapi.BAD_BODY, openapi.BUSY, body=VideoInput
    )
    async def submit(request: Request, response: Response, options: Options) -> Submitted:
        """Submit a request. Wrong input is reported by its result."""
        job = await submit_job(service, request, options, reject=True)
        response.headers["X-Fal-Request-Id"] = job.id
        last = job.last
        waits = isinstance(last, Progress) and last.stage is Stage.QUEUED
        return Submitted(
            status="IN_QUEUE",
            request_id=job.id,
            gateway_request_id=job.id,
            queue_position=last.step if isinstance(last, Progress) and waits else 0,
            **job_urls(urls.base(request), endpoint, job.id),
        )

    path, *also = paths("/status")
    running: Responses = {202: openapi.error("The request is waiting or running.", QueueStatus)}

    @serve(
        "GET", path, running, lookup, also=also, route_class=PollRoute, response_model=QueueStatus
    )
    async def status(
        request: Request, owner: Owner, request_id: RequestId, logs: Logs = "0"
    ) -> Response:
        """Get the status of a request."""
        base, with_logs = urls.base(request), logs.lower() in TRUE_WORDS

        def look() -> Payload:
            return job_status(_find(service, owner, request_id), base, with_logs)

        if (job := service.queue.get_cached(request_id)) is not None:
            # Most polled jobs are cached. Another thread would cost more than the response.
            payload = job_status(_check_owner(job, owner), base, with_logs)
        else:
            payload = await to_thread.run_sync(look)
        code = 200 if payload["status"] == "COMPLETED" else 202
        return ApiResponse(code, payload).to_response(request_id)

    path, *also = paths("/status/stream")

    @serve("GET", path, lookup, also=also, content=EVENTS, dependencies=[Security(STREAM_TOKEN)])
    async def status_stream(
        request: Request, owner: Owner, request_id: RequestId, logs: Logs = "0"
    ) -> Response:
        """Follow a request: its status at every change, each with the new log lines."""
        job = await to_thread.run_sync(_find, service, owner, request_id)
        changes = status_changes(job, urls.base(request), logs.lower() in TRUE_WORDS)
        return event_stream(request_id, changes)

    path, *also = paths("")
    also += [f"{each}/response" for each in (path, *also)]
    unfinished: Responses = {400: openapi.error("The request has not ended yet.", Message)}

    @serve("GET", path, unfinished, lookup, openapi.OUTCOMES, also=also, response_model=VideoOutput)
    async def result(request: Request, owner: Owner, request_id: RequestId) -> Response:
        """Get the video, or the reason why there is none. Also at .../response."""
        base = urls.base(request)

        def look() -> ApiResponse:
            return outcome_response(_find(service, owner, request_id), urls, base)

        return (await to_thread.run_sync(look)).to_response(request_id)

    path, *also = paths("/cancel")
    late: Responses = {400: openapi.error("The request has already ended.", CancelTooLate)}

    @serve("PUT", path, late, lookup, also=also, status_code=202, response_model=CancelAccepted)
    async def cancel(owner: Owner, request_id: RequestId) -> Response:
        """Cancel a request that is waiting or running."""
        job = await to_thread.run_sync(_find, service, owner, request_id)
        if await to_thread.run_sync(job.cancel) is Cancellation.TOO_LATE:
            return ApiResponse(400, {"status": "ALREADY_COMPLETED"}).to_response(request_id)
        return ApiResponse(202, {"status": "CANCELLATION_REQUESTED"}).to_response(request_id)

    def job_status(job: Job, base: str, logs: bool) -> Payload:
        last = job.last
        log = log_lines(job.events_since()) if logs else None
        end = None if isinstance(last, Progress) else outcome_response(job, urls, base)
        return status_payload(job, last, job_urls(base, endpoint, job.id), log, end)

    async def status_changes(job: Job, base: str, logs: bool) -> AsyncIterator[bytes]:
        """The status at every change, each with the log lines since the previous one."""
        links = job_urls(base, endpoint, job.id)
        async for events in follow(job, KEEPALIVE_S):
            if not events:
                yield KEEPALIVE
                continue
            last, log = events[-1].event, log_lines(events) if logs else None
            done = not isinstance(last, Progress)
            end = await to_thread.run_sync(outcome_response, job, urls, base) if done else None
            yield encode_event(status_payload(job, last, links, log, end))


def _find(service: ApiService, owner: str, request_id: str) -> Job:
    """The job of that id, if it is the caller's. Raises `UnknownJob` or `ApiError`, both a 404."""
    return _check_owner(service.queue.get(request_id), owner)


def _check_owner(job: Job, owner: str) -> Job:
    """Raises `ApiError`, 404, for the job of another caller."""
    if job.options.owner != owner:
        raise ApiError(NOT_FOUND)
    return job


def add_run_routes(api: FalApi, service: ApiService, endpoint: str) -> None:
    """Add the routes below `/run`. Only the caller knows the job, so it ends when they leave."""
    urls, path = service.context.urls, f"/run/{endpoint}"
    serve = partial(api.serve, tag="Run", body=VideoInput)
    refused = openapi.BAD_REQUEST | openapi.CLOSED | openapi.BAD_BODY | openapi.BUSY
    refused |= openapi.UNAVAILABLE
    expired: Responses = {404: openapi.error("The video has expired.", NotFound)}

    @serve("POST", path, refused, openapi.OUTCOMES, expired, response_model=VideoOutput)
    async def run(request: Request, options: Options) -> Response:
        """Make a video and wait for it."""
        job = await submit_job(service, request, options, reject=False)
        if not await _wait(job, request):
            await to_thread.run_sync(job.cancel)
            return CLIENT_DISCONNECTED.to_response(job.id)
        base = urls.base(request)
        return (await to_thread.run_sync(outcome_response, job, urls, base)).to_response(job.id)

    @serve("POST", f"{path}/stream", refused, content=EVENTS, dependencies=[Security(STREAM_TOKEN)])
    async def run_stream(request: Request, options: Options) -> Response:
        """Make a video and report progress. The last event is the video, or an error."""
        job = await submit_job(service, request, options, reject=False)
        return event_stream(job.id, pieces(job, urls.base(request)))

    async def pieces(job: Job, base: str) -> AsyncIterator[bytes]:
        """Progress, then the output or the body of the error response."""
        try:
            async for events in follow(job, KEEPALIVE_S):
                if not events:
                    yield KEEPALIVE
                for job_event in events:
                    if isinstance(job_event.event, Progress):
                        yield encode_event(progress_of(job_event.event))
            yield encode_event((await to_thread.run_sync(outcome_response, job, urls, base)).body)
        finally:
            with CancelScope(shield=True):
                await to_thread.run_sync(job.cancel)


async def _wait(job: Job, request: Request) -> bool:
    """Wait for the end of `job`. Returns False if the caller disconnects first."""
    async with aclosing(follow(job, DISCONNECT_POLL_S)) as changes:
        async for _ in changes:
            if await request.is_disconnected():
                return False
    return True


def progress_of(progress: Progress) -> dict[str, Any]:
    """One event of a streamed run."""
    values: dict[str, Any] = {"stage": progress.stage.value}
    if progress.stage is Stage.QUEUED:
        values["queue_position"] = progress.step
    elif progress.total:
        values |= {"step": progress.step, "total": progress.total}
    if progress.remaining_s is not None:
        values["remaining_s"] = round(progress.remaining_s, 1)
    return {"progress": values}
