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
from svd_core.web.page.controls import Changes
from svd_core.web.page.formatting import error_html, refused_html, status_html
from svd_core.web.page.i18n import fixed, texts_for
from svd_core.web.page.job_watch import then_watch
from svd_core.web.page.page_events import QUICK
from svd_core.web.page.page_state import Studio

Make = Callable[[Backend, Job], VideoRequest]

WAYS: Mapping[str, Make] = {
    "again": lambda backend, job: backend.again(job, with_new_seed),
    "more_motion": lambda backend, job: backend.again(job, motion_presets.more),
    "extend": Backend.longer,
    "less_motion": lambda backend, job: backend.again(job, motion_presets.less),
}
"""From a finished video to the request of the next one."""

ROW = ("save", "again", "more_motion", "extend")
MENU = ("less_motion", "last_frame")
"""Actions below the player, and those that are rarer; `Exporting` has them in its menu."""

SAVE = """() => document.querySelector("#video a[download]")?.click()"""
"""The player's own download link has the file that is playing."""


def action_row() -> dict[str, gr.Button]:
    """The buttons of `ROW` and `MENU`; those of `MENU` are not rendered yet."""
    with gr.Row(elem_id="actions"):
        row = {name: _button(name) for name in ROW}
    return row | {name: _button(name, render=False) for name in MENU}


def _button(name: str, **options: Any) -> gr.Button:
    look: dict[str, Any] = {"size": "sm", "min_width": 110, "elem_id": name.replace("_", "-")}
    return gr.Button(fixed(name), **look, **options)


def wire_result(studio: Studio, buttons: Mapping[str, gr.Button]) -> Dependency:
    """Returns the event after the visitor's choice of in-between frames."""
    buttons["save"].click(None, js=SAVE, api_visibility="private")
    for name, make in WAYS.items():

        def ask(
            ids: list[str], card: Any, request: gr.Request, make: Make = make
        ) -> Changes:  # fmt: skip
            job = studio.backend.job(ids[0] if ids else None, card)
            say = texts_for(request)
            if job is None:
                return {studio.screen.line: error_html(say("nothing_there"))}
            try:
                again = make(studio.backend, job)
            except SvdError as error:
                return studio.screen.refused(error, say)
            begun = studio.begin(lambda visitor: [studio.backend.put(again, visitor)], card, say)
            return studio.shown(again.params, say, begun)

        inputs = [studio.screen.current, studio.visitor]
        then_watch(studio, buttons[name].click, ask, inputs)

    def on_last_frame(ids: list[str], card: Any, request: gr.Request) -> Changes:
        job, say = studio.backend.job(ids[0] if ids else None, card), texts_for(request)
        try:
            frames = None if job is None else studio.backend.results.frames(job.id)
        except SvdError as error:
            return {studio.screen.line: refused_html(error, say)}
        if frames is None:
            return {studio.screen.line: error_html(say("nothing_there"))}
        line = status_html(say("used_last_frame"))
        return {studio.photo: to_png(frames[-1]), studio.screen.line: line}

    buttons["last_frame"].click(
        on_last_frame,
        [studio.screen.current, studio.visitor],
        [studio.photo, studio.screen.line],
        **QUICK,
    )
    return _wire_switch(studio)


def _wire_switch(studio: Studio) -> Dependency:
    """The visitor's choice of in-between frames, for this video and the next ones."""
    screen, switch = studio.screen, studio.dials["interpolation"]

    def on_switch(value: Any, playing: Any, card: Any, request: gr.Request) -> Changes:
        if value not in FACTORS:
            return gr.skip()  # type: ignore[no-any-return]
        try:
            return studio.playback(playing, value, card) | {studio.chosen: value}
        except SvdError as error:
            return {screen.line: refused_html(error, texts_for(request))}

    switched: Dependency = switch.input(  # type: ignore[attr-defined]
        on_switch,
        [switch, screen.playing, studio.visitor],
        [screen.player, screen.playing, switch, studio.chosen, screen.line],
        **QUICK,
    )
    return switched
