"""From the photo to a video: framing as it will be, generating, stopping."""

from collections.abc import Iterator
from typing import Any

import gradio as gr
from gradio.components import Component

from svd_core.web.page.dials import Changes
from svd_core.web.page.framing import focus_at, picture
from svd_core.web.page.occasions import QUICK
from svd_core.web.page.studio import Studio
from svd_core.web.page.texts import Texts, texts_for

SHOW_PROGRESS = """() => {
    document.getElementById("progress").scrollIntoView({block: "nearest"});
}"""

FRAMING = ("fit", "focus_x", "focus_y")


def wire_making(page: gr.Blocks, studio: Studio) -> None:
    _wire_framing(page, studio)
    screen = studio.screen

    def on_generate(given: dict[Component, Any], request: gr.Request) -> Iterator[Changes]:
        values = studio.values(given)
        photo, card = given[studio.photo], given[studio.visitor]
        yield from studio.run(
            lambda visitor: [studio.backend.submit(photo, values, visitor)],
            card,
            texts_for(request),
            still_html(studio, given, texts_for(request)),
        )

    def on_stop(ids: list[str]) -> None:
        """Ask for the end. The watcher shows it, and nobody else: two would race."""
        for job_id in ids:
            studio.backend.queue.get(job_id).cancel()

    screen.generate.click(on_generate, studio.asked, studio.outputs, **studio.watching)
    # On a phone the progress is below the fold; where it is in sight already, nothing moves.
    screen.generate.click(None, js=SHOW_PROGRESS, api_visibility="private")
    screen.stop.click(on_stop, screen.current, None, **QUICK)


def still_html(studio: Studio, given: dict[Component, Any], say: Texts) -> str:
    """The framed photo, to wait with."""
    small = given[studio.framing.small]
    if small is None:
        return ""
    return f'<img class="svd-still" alt="{say("screen_alt")}" src="{picture(small.photo, 640)}">'


def _wire_framing(page: gr.Blocks, studio: Studio) -> None:
    framing, dials = studio.framing, studio.dials
    turned = [dials[name] for name in FRAMING]
    outputs = [framing.figure, framing.small, dials["focus_x"], dials["focus_y"]]

    def framed(small: Any, fit: Any, focus_x: Any, focus_y: Any, say: Texts) -> Changes:
        if small is None:
            return {}
        values = {"fit": fit, "focus_x": focus_x, "focus_y": focus_y}
        return framing.framed(small, values, studio.sizes, dials, say)

    def on_photo(photo: Any, fit: Any, x: Any, y: Any, request: gr.Request) -> Changes:
        say = texts_for(request)
        changes = framing.opened(photo)
        return changes | framed(changes[framing.small], fit, x, y, say)

    def on_turn(small: Any, fit: Any, x: Any, y: Any, request: gr.Request) -> Changes:
        return framed(small, fit, x, y, texts_for(request)) or {framing.small: small}

    def on_click(small: Any, event: gr.SelectData) -> tuple[float, float]:
        return (0.5, 0.5) if small is None else focus_at(small, event.index, studio.sizes)

    def on_drag(event: gr.EventData) -> tuple[float, float]:
        return round(event.x, 3), round(event.y, 3)

    focus = [dials["focus_x"], dials["focus_y"]]
    gr.on([page.load, studio.photo.change], on_photo, [studio.photo, *turned], outputs, **QUICK)
    gr.on(
        [dial.change for dial in turned],  # type: ignore[attr-defined]
        on_turn, [framing.small, *turned], outputs, trigger_mode="always_last", **QUICK,
    )  # fmt: skip
    studio.photo.select(on_click, framing.small, focus, **QUICK)
    framing.figure.dragged(on_drag, None, focus, **QUICK)
    # Another photo is framed afresh.
    studio.photo.input(lambda: (0.5, 0.5), None, focus, **QUICK)
