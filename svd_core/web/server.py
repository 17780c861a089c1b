"""Server of page and API: launch arguments of Gradio, and the middleware in front of its routes."""

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import gradio as gr
import uvicorn
from gradio import http_server
from starlette.applications import Starlette
from starlette.types import ASGIApp

from svd_core.errors import InvalidSettings, SvdError
from svd_core.jobs import MAX_WATCHERS
from svd_core.settings import Settings
from svd_core.web.listener import Listener
from svd_core.web.middleware import MAX_BODY, GuardMiddleware, ResponseDelivery
from svd_core.web.origins import OriginPolicy, reachable_locally_only
from svd_core.web.page.i18n import i18n_bundle
from svd_core.web.page.theme import CSS, theme
from svd_core.web.public_address import (
    PublicAddress,
    PublicAddressMiddleware,
    PublicHostMiddleware,
)
from svd_core.web.request_body import BodyReader

QUEUE_POLL_S = 0.02
"""Seconds between two polls of Gradio's event queue.

Gradio's defaults are 1 ms, and 10 ms for progress. An idle server then wakes 1,100 times a second,
which slows the model. On Windows the defaults are 50 ms and 100 ms.
"""

PROGRESS_S = 0.1
"""Seconds between two polls for progress."""

MAX_RUNNING = 3
"""Open jobs besides the waiting ones: those that run or are about to end."""

MAX_REASON = 300
"""Characters of another library's error that are shown."""


def max_followers(settings: Settings) -> int:
    """Limit of watchers at once, enough for all open jobs.

    So the watchers of one job never lock out those of another.
    """
    return MAX_WATCHERS * (settings.max_queue + MAX_RUNNING)


def configure_gradio_queue(page: gr.Blocks, settings: Settings) -> None:
    """Set up Gradio's event queue of `page`. Videos have a queue of their own, `JobQueue`."""
    queue = page.queue(max_size=settings.max_queue)._queue  # noqa: SLF001  # there is no public access
    queue.sleep_when_free = QUEUE_POLL_S
    queue.progress_update_sleep_when_free = PROGRESS_S


def launch_options(settings: Settings, results: Path, api: ASGIApp | None = None) -> dict[str, Any]:
    """Arguments of `Blocks.launch`.

    `results`: the only folder whose files are served. `api`: application served under `MOUNT`.
    """
    return {
        "root_path": "",  # `PublicAddressMiddleware` sets it for each request
        "ssr_mode": False,  # the Node server in front would answer all unknown paths
        # Gradio's MCP server has no login, so it is off if the page has one.
        "mcp_server": find_spec("mcp") is not None and not settings.page_auth,
        "auth": tuple(settings.page_auth.split(":", 1)) if settings.page_auth else None,
        "allowed_paths": [str(results)],
        "max_file_size": "20mb",
        # Each watcher blocks a thread; 40 is Gradio's default for all other events.
        "max_threads": max_followers(settings) + 40,
        "show_error": True,
        "run_history": False,
        "enable_monitoring": False,
        "pwa": False,
        "quiet": True,
        "footer_links": ["api"],
        "theme": theme(),
        "css_paths": CSS,
        "i18n": i18n_bundle(),
        "app_kwargs": {"lifespan": with_middleware(settings, api)},
    }


def launch(
    page: gr.Blocks, open_listener: Callable[[], Listener], options: Mapping[str, Any]
) -> None:
    """Launch `page` in a thread. `options`: see `launch_options`.

    `open_listener`: called when everything is ready; returns the sockets. Raises `InvalidSettings`
    if the page does not start.
    """
    try:
        with _start_server_on(open_listener):
            # `_frontend` would call the page once more, and give a busy machine 3 s to answer.
            page.launch(prevent_thread_lock=True, _frontend=False, **options)
    except SvdError:
        raise
    except Exception as error:  # noqa: BLE001 - every library that Gradio uses has its own kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidSettings("page_failed", reason=reason[:MAX_REASON].rstrip(".")) from error


@contextmanager
def _start_server_on(open_listener: Callable[[], Listener]) -> Iterator[None]:
    """Make Gradio's launch serve on the listener that `open_listener` returns.

    There is no public way to do that. Gradio's own function tries the port with an IPv4 socket,
    takes every error for a port in use, and gives a busy machine 5 s.
    """

    def start_server(app: ASGIApp, **_: Any) -> tuple[str, int, str, http_server.Server]:
        # `PublicAddressMiddleware` must see the peer, and reads the headers of proxies itself.
        config = uvicorn.Config(app, log_level="warning", proxy_headers=False)
        server = http_server.Server(config)
        listener = open_listener()
        keywords = {"sockets": listener.sockets}
        server.thread = Thread(target=server.run, kwargs=keywords, name="svd-http", daemon=True)
        server.thread.start()
        while not server.started:
            if not server.thread.is_alive():
                raise OSError(f"the server on port {listener.port} ended at once")
            time.sleep(0.005)
        return listener.host, listener.port, listener.url, server

    original = http_server.start_server
    http_server.start_server = start_server  # type: ignore[assignment]
    try:
        yield
    finally:
        http_server.start_server = original


def with_middleware(
    settings: Settings, api: ASGIApp | None
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """Make a lifespan that puts our middleware in front before the first request.

    Gradio adds its own middleware to the application, which has to stay inside.
    """
    origins = OriginPolicy.from_settings(settings, local=reachable_locally_only())
    bodies = BodyReader(total_s=settings.body_seconds)
    address = PublicAddress.from_settings(settings)
    droppable = (settings.max_upload_mb << 20) + MAX_BODY

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        inside = app.middleware_stack
        assert inside is not None  # it has passed on the event that started this
        guard = GuardMiddleware(PublicHostMiddleware(inside), api, origins, bodies)
        delivery = ResponseDelivery(guard, droppable, total_s=settings.body_seconds)
        app.middleware_stack = PublicAddressMiddleware(delivery, address)
        yield

    return lifespan
