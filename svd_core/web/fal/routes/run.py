"""Run routes: one call for one video, answered at the end or streamed.

Nobody else knows such a job, so it is cancelled when its caller goes away.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from anyio import CancelScope, to_thread
from starlette.requests import Request
from starlette.responses import Response

from svd_core.events import Progress, Stage
from svd_core.jobs import Job
from svd_core.web.fal.dependencies import ApiService
from svd_core.web.fal.job_status import (
    KEEPALIVE,
    KEEPALIVE_S,
    encode_event,
    event_stream,
    follow,
    outcome_response,
)
from svd_core.web.fal.responses import CLIENT_DISCONNECTED
from svd_core.web.fal.submit import submit

DISCONNECT_POLL_S = 1.0
"""Seconds after which a caller that went away is noticed, at most."""


class RunRoutes:
    def __init__(self, service: ApiService) -> None:
        self._service = service

    async def run(self, request: Request) -> Response:
        base = self._service.context.urls.base(request)
        job = await submit(self._service, request, reject=False)
        if not await _outcome(job, request):
            await _cancel(job)
            return CLIENT_DISCONNECTED.to_response(job.id)
        urls = self._service.context.urls
        return (await to_thread.run_sync(outcome_response, job, urls, base)).to_response(job.id)

    async def stream(self, request: Request) -> Response:
        base = self._service.context.urls.base(request)
        job = await submit(self._service, request, reject=False)
        return event_stream(job.id, self._pieces(job, base))

    async def _pieces(self, job: Job, base: str) -> AsyncIterator[bytes]:
        """Progress, then the output; or what an error's answer would say."""
        urls = self._service.context.urls
        try:
            async for news in follow(job, KEEPALIVE_S):
                if not news:
                    yield KEEPALIVE
                for job_event in news:
                    if isinstance(job_event.event, Progress):
                        yield encode_event(progress_of(job_event.event))
            yield encode_event((await to_thread.run_sync(outcome_response, job, urls, base)).body)
        finally:
            with CancelScope(shield=True):
                await _cancel(job)


async def _outcome(job: Job, request: Request) -> bool:
    """Waits for the end of `job`; False if the caller is gone before."""
    async with aclosing(follow(job, DISCONNECT_POLL_S)) as changes:
        async for _ in changes:
            if await request.is_disconnected():
                return False
    return True


async def _cancel(job: Job) -> None:
    await to_thread.run_sync(job.cancel)


def progress_of(progress: Progress) -> dict[str, Any]:
    told: dict[str, Any] = {"stage": progress.stage.value}
    if progress.stage is Stage.QUEUED:
        told["queue_position"] = progress.step
    elif progress.total:
        told |= {"step": progress.step, "total": progress.total}
    if progress.remaining_s is not None:
        told["remaining_s"] = round(progress.remaining_s, 1)
    return {"progress": told}
