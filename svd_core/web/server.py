"""How the page is served: launch arguments, and what stands in front of Gradio's own routes."""

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from svd_core.settings import Settings
from svd_core.web.fal import MOUNT
from svd_core.web.page.look import CSS, theme
from svd_core.web.page.texts import all_languages

MAX_BODY = 32 * 1024 * 1024
"""Bytes of a request: a photo of 20 MB, a third longer as base64, and what is around it."""

LOOK_S = 0.02
"""Seconds between two looks of Gradio's queue for what has been clicked. By its own 1 ms, and 10 ms
for progress, an idle server wakes 1,100 times a second, and the model feels it; on Windows it takes
50 ms."""

PROGRESS_S = 0.1
"""Seconds between two of its looks for progress to be told; its own figure on Windows."""

FETCHES = re.compile(r"/file[=/]\s*https?:", re.IGNORECASE)


def watchers(settings: Settings) -> int:
    """How many jobs may be watched at once: each waiting one by two tabs, and some to spare."""
    return 2 * settings.max_queue + 8


def for_this_machine_only() -> bool:
    """Whether what Gradio is going to serve can be reached from this machine alone."""
    shared = os.environ.get("GRADIO_SHARE", "").lower() == "true"
    name = os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    return not shared and name in ("127.0.0.1", "localhost", "::1")


def keep_queue(page: gr.Blocks, settings: Settings) -> None:
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
        "max_threads": watchers(settings) + 40,
        "show_error": True,
        "run_history": False,
        "enable_monitoring": False,
        "pwa": False,
        "quiet": True,
        "footer_links": ["api"],
        "theme": theme(),
        "css_paths": CSS,
        "i18n": all_languages(),
        "app_kwargs": {
            "middleware": [Middleware(Gate, api=api)],
        },
    }


class Gate:
    """ASGI middleware that refuses what Gradio would do for strangers.

    `/file=https://...` makes the server fetch any URL, without limit: 403. Bodies beyond `MAX_BODY`
    would be read into memory whole: 413, or the end of the connection where no length was said.
    What is meant for the API, which has limits of its own, goes there and not through Gradio: most
    requests are polls, and they are many.
    """

    def __init__(self, app: ASGIApp, api: ASGIApp | None = None) -> None:
        self.app = app
        self._api = None if api is None else Mount(MOUNT, app=api)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self._api is not None:
            match, inner = self._api.matches(scope)
            if match is not Match.NONE:
                await self._api.app({**scope, **inner}, receive, send)
                return
        refusal = _refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        left = MAX_BODY

        async def receive_within_limit() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            return message if left >= 0 else {"type": "http.disconnect"}

        await self.app(scope, receive_within_limit, send)


def _refusal(scope: Scope) -> PlainTextResponse | None:
    if FETCHES.search(scope["path"]):
        return PlainTextResponse("This server does not fetch other addresses for you.", 403)
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if not length.isdigit() or int(length) > MAX_BODY:
        return PlainTextResponse("That is too much; a photo may have at most 20 MB.", 413)
    return None
