"""Job routes: the queue (submit, status, result, cancel), and run, which waits for the video."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from anyio import CancelScope, to_thread
from starlette.requests import Request
from starlette.responses import Response

from svd_core.errors import UnknownJob
from svd_core.events import Progress, Stage
from svd_core.jobs import Cancellation, Job
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
from svd_core.web.fal.responses import CLIENT_DISCONNECTED, NOT_FOUND, ApiError, ApiResponse
from svd_core.web.fal.submit import submit

DISCONNECT_POLL_S = 1.0
"""Seconds between two checks whether the caller went away."""

TRUE_WORDS = {"1", "true", "yes", "on"}


class QueueRoutes:
    """Routes below `/queue`. `endpoint`: id of the endpoint in the URLs of jobs."""

    def __init__(self, service: ApiService, endpoint: str) -> None:
        self._service = service
        self._endpoint = endpoint

    async def submit(self, request: Request) -> Response:
        job = await submit(self._service, request, reject=True)
        payload = self._status(job, self._base(request), logs=False)
        payload |= {"status": "IN_QUEUE", "gateway_request_id": job.id}
        payload.setdefault("queue_position", 0)
        for name in ("logs", "metrics", "error", "error_type"):
            payload.pop(name, None)
        return ApiResponse(200, payload).to_response(job.id)

    async def status(self, request: Request, request_id: str) -> Response:
        owner, base, logs = owner_of(request), self._base(request), _with_logs(request)

        def look() -> Payload:
            return self._status(self.find(owner, request_id), base, logs)

        if (job := self._service.queue.get_cached(request_id)) is not None:
            # Most polled jobs are; a call to another thread costs more than the response.
            payload = self._status(_check_owner(job, owner), base, logs)
        else:
            payload = await to_thread.run_sync(look)
        status = 200 if payload["status"] == "COMPLETED" else 202
        return ApiResponse(status, payload).to_response(request_id)

    async def stream(self, request: Request, request_id: str) -> Response:
        job = await to_thread.run_sync(self.find, owner_of(request), request_id)
        changes = self._changes(job, self._base(request), _with_logs(request))
        return event_stream(request_id, changes)

    async def result(self, request: Request, request_id: str) -> Response:
        owner, base = owner_of(request), self._base(request)

        def look() -> ApiResponse:
            return outcome_response(self.find(owner, request_id), self._service.context.urls, base)

        return (await to_thread.run_sync(look)).to_response(request_id)

    async def cancel(self, request: Request, request_id: str) -> Response:
        job = await to_thread.run_sync(self.find, owner_of(request), request_id)
        if await to_thread.run_sync(job.cancel) is Cancellation.TOO_LATE:
            return ApiResponse(400, {"status": "ALREADY_COMPLETED"}).to_response(request_id)
        return ApiResponse(202, {"status": "CANCELLATION_REQUESTED"}).to_response(request_id)

    def find(self, owner: str, request_id: str) -> Job:
        """The job of that id, if it is the caller's. Raises `ApiError`, 404."""
        try:
            job = self._service.queue.get(request_id)
        except UnknownJob:
            raise ApiError(NOT_FOUND) from None
        return _check_owner(job, owner)

    def _base(self, request: Request) -> str:
        return self._service.context.urls.base(request)

    def _status(self, job: Job, base: str, logs: bool) -> Payload:
        last = job.last
        log = log_lines(job.events_since()) if logs else None
        done = not isinstance(last, Progress)
        end = outcome_response(job, self._service.context.urls, base) if done else None
        return status_payload(job, last, job_urls(base, self._endpoint, job.id), log, end)

    async def _changes(self, job: Job, base: str, logs: bool) -> AsyncIterator[bytes]:
        """The status at every change, each with the log lines since the previous one."""
        urls, links = self._service.context.urls, job_urls(base, self._endpoint, job.id)
        async for events in follow(job, KEEPALIVE_S):
            if not events:
                yield KEEPALIVE
                continue
            last, log = events[-1].event, log_lines(events) if logs else None
            done = not isinstance(last, Progress)
            end = await to_thread.run_sync(outcome_response, job, urls, base) if done else None
            yield encode_event(status_payload(job, last, links, log, end))


def _check_owner(job: Job, owner: str) -> Job:
    """Raises `ApiError`, 404, for the job of another caller."""
    if job.options.owner != owner:
        raise ApiError(NOT_FOUND)
    return job


def _with_logs(request: Request) -> bool:
    return request.query_params.get("logs", "").lower() in TRUE_WORDS


class RunRoutes:
    """Routes below `/run`. Only the caller knows such a job: it ends when the caller leaves."""

    def __init__(self, service: ApiService) -> None:
        self._service = service

    async def run(self, request: Request) -> Response:
        base = self._service.context.urls.base(request)
        job = await submit(self._service, request, reject=False)
        if not await _wait(job, request):
            await _cancel(job)
            return CLIENT_DISCONNECTED.to_response(job.id)
        urls = self._service.context.urls
        return (await to_thread.run_sync(outcome_response, job, urls, base)).to_response(job.id)

    async def stream(self, request: Request) -> Response:
        base = self._service.context.urls.base(request)
        job = await submit(self._service, request, reject=False)
        return event_stream(job.id, self._pieces(job, base))

    async def _pieces(self, job: Job, base: str) -> AsyncIterator[bytes]:
        """Progress, then the output or the body of the error response."""
        urls = self._service.context.urls
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
                await _cancel(job)


async def _wait(job: Job, request: Request) -> bool:
    """Wait for the end of `job`. Returns False if the caller goes away first."""
    async with aclosing(follow(job, DISCONNECT_POLL_S)) as changes:
        async for _ in changes:
            if await request.is_disconnected():
                return False
    return True


async def _cancel(job: Job) -> None:
    await to_thread.run_sync(job.cancel)


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
