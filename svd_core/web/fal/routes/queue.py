"""Queue routes: submit, status, result, cancel."""

from collections.abc import AsyncIterator

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from svd_core.errors import UnknownJob
from svd_core.events import Progress
from svd_core.jobs import Cancellation, Job
from svd_core.web.fal.auth import owner_of
from svd_core.web.fal.dependencies import ApiService
from svd_core.web.fal.job_status import (
    KEEPALIVE,
    KEEPALIVE_S,
    LogLine,
    encode_event,
    event_stream,
    follow,
    job_urls,
    log_lines,
    outcome_response,
    status_payload,
)
from svd_core.web.fal.responses import NOT_FOUND, ApiError, ApiResponse
from svd_core.web.fal.submit import submit

TRUE = {"1", "true", "yes", "on"}


class QueueRoutes:
    """`endpoint`: the id under which the jobs are told."""

    def __init__(self, service: ApiService, endpoint: str) -> None:
        self._service = service
        self._endpoint = endpoint

    async def submit(self, request: Request) -> Response:
        job = await submit(self._service, request, reject=True)
        told = self._status(job, self._base(request), logs=False)
        told |= {"status": "IN_QUEUE", "gateway_request_id": job.id}
        told.setdefault("queue_position", 0)
        for name in ("logs", "metrics", "error", "error_type"):
            told.pop(name, None)
        return ApiResponse(200, told).to_response(job.id)

    async def status(self, request: Request, request_id: str) -> Response:
        owner, base, logs = owner_of(request), self._base(request), _with_logs(request)

        def look() -> LogLine:
            return self._status(self.find(owner, request_id), base, logs)

        if (job := self._service.queue.get_cached(request_id)) is not None:
            # Most that are asked about are; a walk to another thread costs more than the answer.
            told = self._status(_own(job, owner), base, logs)
        else:
            told = await to_thread.run_sync(look)
        return ApiResponse(200 if told["status"] == "COMPLETED" else 202, told).to_response(
            request_id
        )

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
        """The job of that id, if it is the caller's own. Raises `ApiError`, 404."""
        try:
            job = self._service.queue.get(request_id)
        except UnknownJob:
            raise ApiError(NOT_FOUND) from None
        return _own(job, owner)

    def _base(self, request: Request) -> str:
        return self._service.context.urls.base(request)

    def _status(self, job: Job, base: str, logs: bool) -> LogLine:
        last = job.last
        log = log_lines(job.events_since()) if logs else None
        done = not isinstance(last, Progress)
        end = outcome_response(job, self._service.context.urls, base) if done else None
        return status_payload(job, last, job_urls(base, self._endpoint, job.id), log, end)

    async def _changes(self, job: Job, base: str, logs: bool) -> AsyncIterator[bytes]:
        """The status at every change, each with the lines that are new since the one before."""
        async for news in follow(job, KEEPALIVE_S):
            if not news:
                yield KEEPALIVE
                continue
            last, links = news[-1].event, self._service.context.urls
            done = not isinstance(last, Progress)
            end = await to_thread.run_sync(outcome_response, job, links, base) if done else None
            urls = job_urls(base, self._endpoint, job.id)
            told = status_payload(job, last, urls, log_lines(news) if logs else None, end)
            yield encode_event(told)


def _own(job: Job, owner: str) -> Job:
    """Raises `ApiError`, 404, for somebody else's."""
    if job.options.owner != owner:
        raise ApiError(NOT_FOUND)
    return job


def _with_logs(request: Request) -> bool:
    return request.query_params.get("logs", "").lower() in TRUE
