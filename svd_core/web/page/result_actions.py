"""Actions on a finished video: save it, make it again with one change, or continue it."""

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr
from gradio.events import Dependency

from svd_core.errors import SvdError
from svd_core.jobs import Job
from svd_core.media.image import to_png
from svd_core.params import FACTORS, VideoRequest
from svd_core.web.page import motion_presets
from svd_core.web.page.backend import Backend, with_new_seed
from svd_core.web.page.components import UNQUEUED_EVENT
from svd_core.web.page.controls import Changes
from svd_core.web.page.formatting import error_html, refused_html, status_html
from svd_core.web.page.i18n import client_text, texts_for
from svd_core.web.page.job_watch import then_follow
from svd_core.web.page.page_state import PageState

MakeRequest = Callable[[Backend, Job], VideoRequest]

FOLLOW_UPS: Mapping[str, MakeRequest] = {
    "again": lambda backend, job: backend.rerun(job, with_new_seed),
    "more_motion": lambda backend, job: backend.rerun(job, motion_presets.increase_motion),
    "extend": Backend.extend,
    "less_motion": lambda backend, job: backend.rerun(job, motion_presets.decrease_motion),
}
"""From a finished video to the request of the next one."""

MAIN_ACTIONS = ("save", "again", "more_motion", "extend")
MENU_ACTIONS = ("less_motion", "last_frame")
"""Actions below the player, and those that are rarer; `ExportPanel` has them in its menu."""

CLICK_DOWNLOAD = """() => document.querySelector("#video a[download]")?.click()"""
"""The player's own download link has the file that is playing."""


def action_row() -> dict[str, gr.Button]:
    """The buttons of `MAIN_ACTIONS` and `MENU_ACTIONS`; the latter are not rendered yet."""
    with gr.Row(elem_id="actions"):
        row = {name: _button(name) for name in MAIN_ACTIONS}
    return row | {name: _button(name, render=False) for name in MENU_ACTIONS}


def _button(name: str, **options: Any) -> gr.Button:
    look: dict[str, Any] = {"size": "sm", "min_width": 110, "elem_id": name.replace("_", "-")}
    return gr.Button(client_text(name), **look, **options)


def bind_result_actions(state: PageState, buttons: Mapping[str, gr.Button]) -> Dependency:
    """Returns the event after the visitor's choice of in-between frames."""
    buttons["save"].click(None, js=CLICK_DOWNLOAD, api_visibility="private")
    for name, make in FOLLOW_UPS.items():

        def ask(
            ids: list[str], session: Any, request: gr.Request, make: MakeRequest = make
        ) -> Changes:  # fmt: skip
            job = state.backend.job(ids[0] if ids else None, session)
            t = texts_for(request)
            if job is None:
                return {state.player.line: error_html(t("nothing_there"))}
            try:
                again = make(state.backend, job)
            except SvdError as error:
                return state.player.show_error(error, t)
            begun = state.submit(
                lambda session_id: [state.backend.submit_request(again, session_id)], session, t
            )
            return state.set_values(again.params, t, begun)

        inputs = [state.player.current, state.session]
        then_follow(state, buttons[name].click, ask, inputs)

    def on_last_frame(ids: list[str], session: Any, request: gr.Request) -> Changes:
        job, t = state.backend.job(ids[0] if ids else None, session), texts_for(request)
        try:
            frames = None if job is None else state.backend.results.frames(job.id)
        except SvdError as error:
            return {state.player.line: refused_html(error, t)}
        if frames is None:
            return {state.player.line: error_html(t("nothing_there"))}
        line = status_html(t("used_last_frame"))
        return {state.photo: to_png(frames[-1]), state.player.line: line}

    buttons["last_frame"].click(
        on_last_frame,
        [state.player.current, state.session],
        [state.photo, state.player.line],
        **UNQUEUED_EVENT,
    )
    return _bind_interpolation(state)


def _bind_interpolation(state: PageState) -> Dependency:
    """The visitor's choice of in-between frames, for this video and the next ones."""
    player, switch = state.player, state.controls["interpolation"]

    def on_switch(value: Any, playing: Any, session: Any, request: gr.Request) -> Changes:
        if value not in FACTORS:
            return gr.skip()  # type: ignore[no-any-return]
        try:
            return state.playback(playing, value, session) | {state.interpolation: value}
        except SvdError as error:
            return {player.line: refused_html(error, texts_for(request))}

    switched: Dependency = switch.input(  # type: ignore[attr-defined]
        on_switch,
        [switch, player.playing, state.session],
        [player.video, player.playing, switch, state.interpolation, player.line],
        **UNQUEUED_EVENT,
    )
    return switched
