"""From the photo to a video: framing as it will be, generating, stopping."""

from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from svd_core.errors import SvdError
from svd_core.framer import Framer
from svd_core.params import VideoParams
from svd_core.web.page.dials import Changes
from svd_core.web.page.framing import picture
from svd_core.web.page.occasions import QUICK, event_value
from svd_core.web.page.studio import Studio
from svd_core.web.page.texts import Texts, texts_for
from svd_core.web.page.watching import then_watch
from svd_core.web.page.words import refused_html

SHOW_STAGE = """() => {
    const { top, bottom } = document.getElementById("stage").getBoundingClientRect();
    if (top >= 0 && bottom <= innerHeight) return;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const behavior = calm ? "auto" : "smooth";
    document.getElementById("output").scrollIntoView({ block: "start", behavior });
}"""

STILL_SIDE = 640

SKIP: Changes = gr.skip()

Given = dict[Component, Any]
"""What is on the page when an event begins."""

FRAMING = ("orientation", "fit", "focus_x", "focus_y", "model")


def wire_making(opened: Dependency, studio: Studio) -> None:
    """`opened`: the page is, and its dials say what the link to it says."""
    _wire_framing(opened, studio)
    screen = studio.screen

    def on_generate(given: Given, request: gr.Request) -> Changes:
        say, values = texts_for(request), studio.values(given)
        still = still_html(studio, given, say)
        return studio.begin(
            lambda visitor: [studio.backend.submit(given[studio.photo], values, visitor)],
            given[studio.visitor],
            say,
            still,
        )

    def on_stop(ids: list[str], card: Any) -> None:
        """Ask for the end of this visitor's jobs. Only the watcher shows it: two would race."""
        for job_id in ids:
            if (job := studio.backend.job(job_id, card)) is not None:
                job.cancel()

    then_watch(studio, screen.generate.click, on_generate, studio.asked)
    # On a phone the stage is below the fold; where it is in sight already, nothing moves.
    for button in (screen.generate, screen.sheet):
        button.click(None, js=SHOW_STAGE, api_visibility="private")
    screen.stop.click(on_stop, [screen.current, studio.visitor], None, **QUICK)


def still_html(studio: Studio, given: Given, say: Texts) -> str:
    """The photo as the model sees it, to wait with."""
    framer = given[studio.framing.framer]
    if framer is None:
        return ""
    values = {name: given[studio.dials[name]] for name in FRAMING}
    try:
        framed = framer.frame(studio.sizes(given), VideoParams.from_mapping(values))
    except SvdError:
        return ""  # it is said when the job is submitted
    source = picture(framed.image, STILL_SIDE)
    return f'<img class="svd-still" alt="{say("screen_alt")}" src="{source}">'


def _wire_framing(opened: Dependency, studio: Studio) -> None:
    framing, dials = studio.framing, studio.dials
    turned = {dials[name] for name in FRAMING}
    focus = [dials["focus_x"], dials["focus_y"]]
    outputs = [*framing.outputs, *focus]

    def framed(given: Given, framer: Framer | None, request: gr.Request) -> Changes:
        if framer is None:
            return {}
        values = {name: given[dials[name]] for name in FRAMING}
        try:
            sizes = studio.sizes(given)
        except SvdError as error:
            return {framing.window: refused_html(error, texts_for(request))}
        return framing.framed(framer, values, sizes, texts_for(request))

    def on_photo(photo: bytes | None, request: gr.Request) -> Changes:
        return framing.opened(photo, texts_for(request))

    def on_turn(given: Given, request: gr.Request) -> Changes:
        return framed(given, given[framing.framer], request) or SKIP

    def on_move(event: gr.EventData) -> Changes:
        axis, moved = event_value(event, "axis"), event_value(event, "focus")
        if axis not in ("x", "y") or not isinstance(moved, int | float) or not 0 <= moved <= 1:
            return SKIP
        return {dials[f"focus_{axis}"]: round(moved, 3)}

    for event in (opened.then, studio.photo.change):
        # Framed by what the dials say then: they may be turned while a photo is decoded.
        decoded = event(on_photo, studio.photo, framing.outputs, **QUICK)
        decoded.then(
            on_turn, {framing.framer, *turned}, outputs, **QUICK | {"trigger_mode": "multiple"}
        )
    gr.on(
        [dial.change for dial in turned],  # type: ignore[attr-defined]
        on_turn, {framing.framer, *turned}, outputs, trigger_mode="always_last", **QUICK,
    )  # fmt: skip
    framing.window.moved(on_move, None, focus, **QUICK)
    # Another photo is framed afresh.
    studio.photo.input(lambda: (0.5, 0.5), None, focus, **QUICK)
