"""One call for one video: the answer comes when it is made, or piece by piece.

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
from svd_core.web.fal.dependencies import Service
from svd_core.web.fal.outcomes import ending_of
from svd_core.web.fal.responses import GONE
from svd_core.web.fal.sse import SILENCE_S, STILL_HERE, event, event_stream, watched
from svd_core.web.fal.submit import submit

LOOK_GONE_S = 1.0
"""Seconds after which a caller that went away is noticed, at most."""


class RunRoutes:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def run(self, request: Request) -> Response:
        base = self._service.parts.links.base(request)
        job = await submit(self._service, request, reject=False)
        if not await _ended(job, request):
            await _drop(job)
            return GONE.response(job.id)
        links = self._service.parts.links
        return (await to_thread.run_sync(ending_of, job, links, base)).response(job.id)

    async def stream(self, request: Request) -> Response:
        base = self._service.parts.links.base(request)
        job = await submit(self._service, request, reject=False)
        return event_stream(job.id, self._pieces(job, base))

    async def _pieces(self, job: Job, base: str) -> AsyncIterator[bytes]:
        """Progress, then the output; or what an error's answer would say."""
        links = self._service.parts.links
        try:
            async for news in watched(job, SILENCE_S):
                if not news:
                    yield STILL_HERE
                for stamped in news:
                    if isinstance(stamped.event, Progress):
                        yield event(progress_of(stamped.event))
            yield event((await to_thread.run_sync(ending_of, job, links, base)).body)
        finally:
            with CancelScope(shield=True):
                await _drop(job)


async def _ended(job: Job, request: Request) -> bool:
    """Waits for the end of `job`; False if the caller is gone before."""
    async with aclosing(watched(job, LOOK_GONE_S)) as changes:
        async for _ in changes:
            if await request.is_disconnected():
                return False
    return True


async def _drop(job: Job) -> None:
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
