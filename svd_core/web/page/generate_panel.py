"""Generate and stop buttons, and the crop preview that follows photo and controls."""

from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from svd_core.errors import SvdError
from svd_core.media.framing_preview import CachedPhoto
from svd_core.params import VideoParams
from svd_core.web.page.components import UNQUEUED_EVENT, event_value, script
from svd_core.web.page.controls import Changes
from svd_core.web.page.formatting import refused_html
from svd_core.web.page.framing import data_uri
from svd_core.web.page.i18n import Texts, texts_for
from svd_core.web.page.job_watch import then_follow
from svd_core.web.page.page_state import PageState

PLACEHOLDER_SIDE = 640

SKIP: Changes = gr.skip()

Inputs = dict[Component, Any]
"""What is on the page when an event begins."""

FRAMING_CONTROLS = ("orientation", "fit", "focus_x", "focus_y", "model")


def bind_generate(opened: Dependency, state: PageState) -> None:
    """`opened`: event after which the controls have the values of the link."""
    _bind_framing(opened, state)
    player = state.player

    def on_generate(given: Inputs, request: gr.Request) -> Changes:
        t, values = texts_for(request), state.values(given)
        still = placeholder_html(state, given, t)
        return state.submit(
            lambda session_id: [state.backend.submit(given[state.photo], values, session_id)],
            given[state.session],
            t,
            still,
        )

    def on_stop(ids: list[str], session: Any) -> None:
        """Ask for the end of this visitor's jobs. Only the watcher shows it: two would race."""
        for job_id in ids:
            if (job := state.backend.job(job_id, session)) is not None:
                job.cancel()

    then_follow(state, player.generate.click, on_generate, state.inputs)
    # On a phone the stage is below the fold; where it is in sight already, nothing moves.
    for button in (player.generate, player.drafts):
        button.click(None, js=script("scroll_to_stage.js"), api_visibility="private")
    player.stop.click(on_stop, [player.current, state.session], None, **UNQUEUED_EVENT)


def placeholder_html(state: PageState, given: Inputs, t: Texts) -> str:
    """The photo as the model sees it, to wait with."""
    cached_photo = given[state.framing.cached_photo]
    if cached_photo is None:
        return ""
    values = {name: given[state.controls[name]] for name in FRAMING_CONTROLS}
    try:
        framed = cached_photo.frame(state.sizes(given), VideoParams.from_mapping(values))
    except SvdError:
        return ""  # it is said when the job is submitted
    source = data_uri(framed.image, PLACEHOLDER_SIDE)
    return f'<img class="svd-still" alt="{t("screen_alt")}" src="{source}">'


def _bind_framing(opened: Dependency, state: PageState) -> None:
    framing, controls = state.framing, state.controls
    turned = {controls[name] for name in FRAMING_CONTROLS}
    focus = [controls["focus_x"], controls["focus_y"]]
    outputs = [*framing.outputs, *focus]

    def framed(given: Inputs, cached_photo: CachedPhoto | None, request: gr.Request) -> Changes:
        if cached_photo is None:
            return {}
        values = {name: given[controls[name]] for name in FRAMING_CONTROLS}
        try:
            sizes = state.sizes(given)
        except SvdError as error:
            return {framing.window: refused_html(error, texts_for(request))}
        return framing.update(cached_photo, values, sizes, texts_for(request))

    def on_photo(photo: bytes | None, request: gr.Request) -> Changes:
        return framing.open_photo(photo, texts_for(request))

    def on_turn(given: Inputs, request: gr.Request) -> Changes:
        return framed(given, given[framing.cached_photo], request) or SKIP

    def on_move(event: gr.EventData) -> Changes:
        axis, moved = event_value(event, "axis"), event_value(event, "focus")
        if axis not in ("x", "y") or not isinstance(moved, int | float) or not 0 <= moved <= 1:
            return SKIP
        return {controls[f"focus_{axis}"]: round(moved, 3)}

    for event in (opened.then, state.photo.change):
        # Framed by the controls of that moment: they may change while a photo is decoded.
        decoded = event(on_photo, state.photo, framing.outputs, **UNQUEUED_EVENT)
        decoded.then(
            on_turn,
            {framing.cached_photo, *turned},
            outputs,
            **UNQUEUED_EVENT | {"trigger_mode": "multiple"},
        )
    gr.on(
        [control.change for control in turned],  # type: ignore[attr-defined]
        on_turn, {framing.cached_photo, *turned}, outputs, trigger_mode="always_last",
        **UNQUEUED_EVENT,
    )  # fmt: skip
    framing.window.moved(on_move, None, focus, **UNQUEUED_EVENT)
    # Another photo is framed afresh.
    state.photo.input(lambda: (0.5, 0.5), None, focus, **UNQUEUED_EVENT)
