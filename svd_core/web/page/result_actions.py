"""Actions on a finished video: save, make again with one change, continue, export.

The rarer actions are in the export panel, the menu below the player.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

import gradio as gr
from gradio.components import Component

from svd_core.errors import SvdError
from svd_core.events import Succeeded
from svd_core.media.export import MAX_LOOPS, Export, Format, Order
from svd_core.media.image import to_png
from svd_core.params import PARAMETERS, VideoParams
from svd_core.web.page.backend import with_new_seed
from svd_core.web.page.components import UNQUEUED_EVENT, DownloadButton, Slider
from svd_core.web.page.controls import Changes, segments
from svd_core.web.page.formatting import duration, error_html, refused_html, size_text, status_html
from svd_core.web.page.generation import then_follow
from svd_core.web.page.i18n import client_text, texts_for
from svd_core.web.page.page_state import PageState

MOTION_RATIO = 1.6
"""Factor of the motion bucket for more motion: about the step from one preset to the next."""

MAIN_ACTIONS = ("save", "again", "more_motion", "extend")
"""Actions in the row below the player."""

MENU_ACTIONS = ("less_motion", "last_frame")
"""Rarer actions, in the menu of `ExportPanel`."""

CLICK_DOWNLOAD = """() => document.querySelector("#video a[download]")?.click()"""
"""The player's own download link has the file that is playing."""

MAX_FPS = 60
"""End of the slider: no screen shows more."""


def increase_motion(params: VideoParams) -> VideoParams:
    """More motion: a larger bucket, or more noise if the bucket is at its maximum."""
    maximum = int(PARAMETERS["motion_bucket_id"].maximum)
    bucket, noise = params.motion_bucket_id, params.noise_aug_strength
    if bucket >= maximum:
        return replace(params, noise_aug_strength=round(min(noise + 0.05, 0.5), 2))
    return replace(
        params, motion_bucket_id=min(max(round(bucket * MOTION_RATIO), bucket + 20), maximum)
    )


def decrease_motion(params: VideoParams) -> VideoParams:
    """Less motion: the default noise if there is more, then a smaller bucket."""
    default_noise = VideoParams.default("noise_aug_strength")
    if params.noise_aug_strength > default_noise:
        return replace(params, noise_aug_strength=default_noise)
    return replace(params, motion_bucket_id=max(round(params.motion_bucket_id / MOTION_RATIO), 1))


RERUNS: Mapping[str, Callable[[VideoParams], VideoParams]] = {
    "again": with_new_seed,
    "more_motion": increase_motion,
    "less_motion": decrease_motion,
}
"""Actions that make the video again with changed settings."""


def action_row() -> dict[str, gr.Button]:
    """The buttons of `MAIN_ACTIONS` and `MENU_ACTIONS`; the latter are not rendered yet."""
    with gr.Row(elem_id="actions"):
        row = {name: _button(name) for name in MAIN_ACTIONS}
    return row | {name: _button(name, render=False) for name in MENU_ACTIONS}


def _button(name: str, **options: Any) -> gr.Button:
    style: dict[str, Any] = {"size": "sm", "min_width": 110, "elem_id": name.replace("_", "-")}
    return gr.Button(client_text(name), **style, **options)


def bind_result_actions(state: PageState, buttons: Mapping[str, gr.Button]) -> None:
    """Submit a follow-up, save the video, or take its last frame as the photo."""
    inputs = [state.player.current, state.session]

    def on_last_frame(ids: list[str], session: Any, request: gr.Request) -> Changes:
        job, t = state.job_in_player(ids, session), texts_for(request)
        try:
            frames = None if job is None else state.backend.results.frames(job.id)
        except SvdError as error:
            return {state.player.line: refused_html(error, t)}
        if frames is None:
            return {state.player.line: error_html(t("nothing_there"))}
        line = status_html(t("used_last_frame"))
        return {state.photo: to_png(frames[-1]), state.player.line: line}

    backend = state.backend
    requests = {name: partial(backend.rerun, change=change) for name, change in RERUNS.items()}
    for name, make in {**requests, "extend": backend.extend}.items():

        def submit(ids: list[str], session: Any, request: gr.Request, make: Any = make) -> Changes:
            job = state.job_in_player(ids, session)
            return state.submit_follow_up(job, make, session, texts_for(request))

        then_follow(state, buttons[name].click, submit, inputs)
    outputs = [state.photo, state.player.line]
    buttons["last_frame"].click(on_last_frame, inputs, outputs, **UNQUEUED_EVENT)
    buttons["save"].click(None, js=CLICK_DOWNLOAD, api_visibility="private")


@dataclass(frozen=True)
class ExportPanel:
    """Menu below the player: the video in another format, rate or order, and rarer actions.

    `options`: format, fps, order and loops, in this order.
    """

    options: Sequence[Component]
    download: DownloadButton
    message: gr.HTML

    @classmethod
    def build(cls, actions: Mapping[str, gr.Button]) -> "ExportPanel":
        """Build the menu and render those of `actions` that belong in it."""
        with gr.Accordion(client_text("export"), open=False, elem_id="export"):
            with gr.Row():
                for name in MENU_ACTIONS:
                    actions[name].render()  # type: ignore[no-untyped-call]
            with gr.Row():
                format = segments("format", get_args(Format), "mp4", **_options("format"))
                order = segments("order", get_args(Order), "forward", **_options("order"))
            with gr.Row():
                fps = Slider(1, MAX_FPS, value=7, step=1, buttons=[], **_options("fps"))
                loops = Slider(0, MAX_LOOPS, value=0, step=1, buttons=[], **_options("loops"))
            download = DownloadButton.build(client_text("export_go"), "export-go", size="md")
            message = gr.HTML("", elem_id="export-said")
        return cls([format, fps, order, loops], download, message)


def _options(name: str) -> dict[str, Any]:
    return {"label": client_text(f"export_{name}"), "elem_id": f"export-{name}"}


def bind_export_panel(state: PageState, panel: ExportPanel) -> None:
    """Export the video in the player and download the file."""

    def on_go(
        ids: list[str], session: Any, format: Any, fps: Any, order: Any, loops: Any,
        interpolation: Any, request: gr.Request,
    ) -> Changes:  # fmt: skip
        t, started = texts_for(request), time.monotonic()
        job = state.job_in_player(ids, session)
        if job is None or not isinstance(job.last, Succeeded):
            return {panel.message: error_html(t("nothing_there")), panel.download.file: None}
        try:
            options = Export(
                format=format, fps=fps, order=order, loops=loops, interpolation=interpolation
            )
            path = panel.download.path_for(f"svd-{job.last.video.seed}{options.suffix}", job.id)
            state.backend.results.export(job.id, options, path)
        except SvdError as error:
            return {panel.message: refused_html(error, t), panel.download.file: None}
        size, elapsed = size_text(path.stat().st_size, t), duration(time.monotonic() - started, t)
        message = status_html(t("exported", name=path.name, size=size, elapsed=elapsed))
        return {panel.message: message, panel.download.file: path}

    inputs = [
        state.player.current, state.session, *panel.options, state.controls["interpolation"]
    ]  # fmt: skip
    panel.download.bind(on_go, inputs, panel.message)
