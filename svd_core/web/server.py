"""How the page is served: Gradio's launch arguments, with the guard in front of its routes."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.applications import Starlette
from starlette.types import ASGIApp

from svd_core.jobs import MAX_WATCHERS
from svd_core.settings import Settings
from svd_core.web.middleware import GuardMiddleware
from svd_core.web.origins import OriginPolicy, reachable_locally_only
from svd_core.web.page.i18n import i18n_bundle
from svd_core.web.page.theme import CSS, theme
from svd_core.web.request_body import BodyReader

LOOK_S = 0.02
"""Seconds between two looks of Gradio's queue for what has been clicked. By its own 1 ms, and 10 ms
for progress, an idle server wakes 1,100 times a second, and the model feels it; on Windows it takes
50 ms."""

RUNNING = 3
"""Jobs that are open beside those that wait: one is made here, or one on its way to its end."""

PROGRESS_S = 0.1
"""Seconds between two of its looks for progress to be told; its own figure on Windows."""


def max_followers(settings: Settings) -> int:
    """How many watchers there may be at once: as many as every open job may have, so that nobody's
    jobs keep others from watching theirs."""
    return MAX_WATCHERS * (settings.max_queue + RUNNING)


def configure_gradio_queue(page: gr.Blocks, settings: Settings) -> None:
    """Give `page` the line that Gradio keeps for its clicks; photos wait in another, `JobQueue`."""
    queue = page.queue(max_size=settings.max_queue)._queue  # noqa: SLF001  # has no other way there
    queue.sleep_when_free = LOOK_S
    queue.progress_update_sleep_when_free = PROGRESS_S


def launch_options(settings: Settings, results: Path, api: ASGIApp | None = None) -> dict[str, Any]:
    """Arguments of `Blocks.launch`. `results`: the one folder whose files may be handed out. `api`:
    what is served beside the page, under `MOUNT`.

    Host and port are left to Gradio: `GRADIO_SERVER_NAME`, `GRADIO_SERVER_PORT`.
    """
    return {
        "ssr_mode": False,  # Node in front would swallow every path that it does not know
        # Gradio's MCP knows no login, so with a login there is none.
        "mcp_server": find_spec("mcp") is not None and not settings.page_auth,
        "auth": tuple(settings.page_auth.split(":", 1)) if settings.page_auth else None,
        "allowed_paths": [str(results)],
        "max_file_size": "20mb",
        # A watcher blocks a thread while nothing happens; 40 is Gradio's number for all the rest.
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
        "app_kwargs": {
            "lifespan": with_middleware(settings, api),
        },
    }


def with_middleware(
    settings: Settings, api: ASGIApp | None
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """A lifespan that puts `GuardMiddleware` in front of everything before the first request is
    taken.

    Gradio puts middleware of its own around what it is given, and that has to stay inside.
    """
    origins = OriginPolicy.from_settings(settings, local=reachable_locally_only())
    bodies = BodyReader(total_s=settings.body_seconds)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        inside = app.middleware_stack
        assert inside is not None  # it has just handed on the event that started this
        app.middleware_stack = GuardMiddleware(inside, api, origins, bodies)
        yield

    return lifespan
