"""The fal API on a free port of this machine, with a quick fake in place of the model."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from svd_core.engine.engine import EngineStatus
from svd_core.event_stream import Work
from svd_core.events import OnProgress, Video
from svd_core.jobs import (
    JobQueue,
    LocalExecutor,
    Outbox,
    QueueContext,
    QueueLimits,
    WorkerQueue,
)
from svd_core.jobs.webhook_outbox import RetryPolicy
from svd_core.media.image import open_photo
from svd_core.params import VideoRequest
from svd_core.settings import Settings
from svd_core.storage import ResultStore
from svd_core.web.fal import ApiContext, ApiService, build_api
from svd_core.web.safe_http import Fetcher
from svd_core.web.snippets import MOUNT
from tests.fakes.engines import READY
from tests.fakes.work import FakeWork, open_table

KEYS = "ann:s3cret,bob:other"
KEY = "ann:s3cret"
QUICK = RetryPolicy(first_s=0.2, most_s=0.2, tries=3)


@dataclass
class PhotoWork(FakeWork):
    """Looks at the photo first, as the real work does."""

    def __call__(self, job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        open_photo(request.image)
        return super().__call__(job_id, request, on_progress)


@dataclass(frozen=True)
class FalServer:
    """`url`: of the API, without a slash at the end. `asked`: method and path of every request."""

    url: str
    queue: JobQueue
    work: PhotoWork
    parts: ApiContext
    outbox: Outbox
    asked: list[str]


@contextmanager
def fal_service(
    settings: Settings,
    work: Work | None = None,
    *,
    open_here: bool = False,
    fetcher: Fetcher | None = None,
    status: EngineStatus = READY,
) -> Iterator[tuple[ApiService, Outbox]]:
    """What the program puts behind the API: queue, table and outbox on disk."""
    folder = settings.data_dir
    parts = ApiContext(settings, ResultStore(folder / "results"), open_here)
    if fetcher is not None:
        vars(parts)["fetcher"] = fetcher
    work = work or PhotoWork(parts.results.folder, steps=3)
    limits = QueueLimits(settings.max_queue, settings.max_queue_per_key)
    with open_table(folder) as table:
        queue = WorkerQueue(
            [LocalExecutor(work)], QueueContext(table, limits, parts.fetcher.photo)
        ).start()
        outbox = Outbox(table, queue.get, parts.send_webhook, QUICK, poll_interval_s=0.1)
        try:
            yield ApiService(parts, queue, lambda: status), outbox
        finally:
            outbox.close()
            queue.close()


@contextmanager
def fal_server(
    folder: Path,
    settings: Settings | None = None,
    *,
    open_here: bool = False,
    fetcher: Fetcher | None = None,
    status: EngineStatus = READY,
    **options: str,
) -> Iterator[FalServer]:
    """The API served by itself. `options`: of uvicorn."""
    settings = settings or Settings(data_dir=folder, api_keys=KEYS, allow_private_urls=True)
    work = PhotoWork(settings.data_dir / "results", steps=3)
    served = fal_service(settings, work, open_here=open_here, fetcher=fetcher, status=status)
    with served as (service, outbox):
        noted = Noting(Starlette(routes=[Mount(MOUNT, app=build_api(service))]))
        with listening(noted, **options) as url:
            queue, parts = service.queue, service.context
            yield FalServer(f"{url}{MOUNT}", queue, work, parts, outbox, noted.asked)


class Noting:
    """ASGI middleware that keeps what was asked for."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.asked: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        target = Headers(scope=scope).get("x-fal-target-url", "").partition("?")[0]
        self.asked.append(f"{scope['method']} {scope['path'].removeprefix(MOUNT)}{target}")
        await self.app(scope, receive, send)


@contextmanager
def listening(app: ASGIApp, **options: str) -> Iterator[str]:
    """`app` served on a free port; its address."""
    # The protocol is named, or the event loop would take it for none that wants TCP_NODELAY.
    with socket.socket(proto=socket.IPPROTO_TCP) as own:
        own.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="warning", lifespan="off", **options)  # type: ignore[arg-type]
        config.timeout_graceful_shutdown = 1
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [own]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        scheme = "https" if "ssl_certfile" in options else "http"
        try:
            yield f"{scheme}://127.0.0.1:{own.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
