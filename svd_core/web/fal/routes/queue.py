"""The queue: submit, then ask how it goes, read the result, or cancel."""

from collections.abc import AsyncIterator

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from svd_core.errors import UnknownJob
from svd_core.events import Progress
from svd_core.jobs import Cancellation, Job
from svd_core.web.fal.auth import owner_of
from svd_core.web.fal.dependencies import Service
from svd_core.web.fal.job_status import Entry, log_of, status_of, urls_of
from svd_core.web.fal.outcomes import ending_of
from svd_core.web.fal.responses import NOT_FOUND, Answer, Refusal
from svd_core.web.fal.sse import SILENCE_S, STILL_HERE, event, event_stream, watched
from svd_core.web.fal.submit import submit

TRUE = {"1", "true", "yes", "on"}


class QueueRoutes:
    """`endpoint`: the id under which the jobs are told."""

    def __init__(self, service: Service, endpoint: str) -> None:
        self._service = service
        self._endpoint = endpoint

    async def submit(self, request: Request) -> Response:
        job = await submit(self._service, request, reject=True)
        told = self._told(job, self._base(request), logs=False)
        told |= {"status": "IN_QUEUE", "gateway_request_id": job.id}
        told.setdefault("queue_position", 0)
        for name in ("logs", "metrics", "error", "error_type"):
            told.pop(name, None)
        return Answer(200, told).response(job.id)

    async def status(self, request: Request, request_id: str) -> Response:
        owner, base, logs = owner_of(request), self._base(request), _with_logs(request)

        def look() -> Entry:
            return self._told(self.find(owner, request_id), base, logs)

        if (job := self._service.queue.get_cached(request_id)) is not None:
            # Most that are asked about are; a walk to another thread costs more than the answer.
            told = self._told(_own(job, owner), base, logs)
        else:
            told = await to_thread.run_sync(look)
        return Answer(200 if told["status"] == "COMPLETED" else 202, told).response(request_id)

    async def stream(self, request: Request, request_id: str) -> Response:
        job = await to_thread.run_sync(self.find, owner_of(request), request_id)
        changes = self._changes(job, self._base(request), _with_logs(request))
        return event_stream(request_id, changes)

    async def result(self, request: Request, request_id: str) -> Response:
        owner, base = owner_of(request), self._base(request)

        def look() -> Answer:
            return ending_of(self.find(owner, request_id), self._service.parts.links, base)

        return (await to_thread.run_sync(look)).response(request_id)

    async def cancel(self, request: Request, request_id: str) -> Response:
        job = await to_thread.run_sync(self.find, owner_of(request), request_id)
        if await to_thread.run_sync(job.cancel) is Cancellation.TOO_LATE:
            return Answer(400, {"status": "ALREADY_COMPLETED"}).response(request_id)
        return Answer(202, {"status": "CANCELLATION_REQUESTED"}).response(request_id)

    def find(self, owner: str, request_id: str) -> Job:
        """The job of that id, if it is the caller's own. Raises `Refusal`, 404."""
        try:
            job = self._service.queue.get(request_id)
        except UnknownJob:
            raise Refusal(NOT_FOUND) from None
        return _own(job, owner)

    def _base(self, request: Request) -> str:
        return self._service.parts.links.base(request)

    def _told(self, job: Job, base: str, logs: bool) -> Entry:
        last = job.last
        log = log_of(job.events_since()) if logs else None
        done = not isinstance(last, Progress)
        end = ending_of(job, self._service.parts.links, base) if done else None
        return status_of(job, last, urls_of(base, self._endpoint, job.id), log, end)

    async def _changes(self, job: Job, base: str, logs: bool) -> AsyncIterator[bytes]:
        """The status at every change, each with the lines that are new since the one before."""
        async for news in watched(job, SILENCE_S):
            if not news:
                yield STILL_HERE
                continue
            last, links = news[-1].event, self._service.parts.links
            done = not isinstance(last, Progress)
            end = await to_thread.run_sync(ending_of, job, links, base) if done else None
            urls = urls_of(base, self._endpoint, job.id)
            told = status_of(job, last, urls, log_of(news) if logs else None, end)
            yield event(told)


def _own(job: Job, owner: str) -> Job:
    """Raises `Refusal`, 404, for somebody else's."""
    if job.options.owner != owner:
        raise Refusal(NOT_FOUND)
    return job


def _with_logs(request: Request) -> bool:
    return request.query_params.get("logs", "").lower() in TRUE
