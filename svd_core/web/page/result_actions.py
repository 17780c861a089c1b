"""Actions on a finished video: save, make again with one change, continue, export.

The rarer actions are in the export panel, the menu below the player.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

import gradio as gr

from svd_core.errors import SvdError
from svd_core.events import Succeeded
from svd_core.jobs import Job
from svd_core.media.export import MAX_LOOPS, Export, Format, Order
from svd_core.media.image import to_png
from svd_core.params import PARAMETERS, VideoParams, VideoRequest
from svd_core.web.page.backend import Backend, with_new_seed
from svd_core.web.page.components import UNQUEUED_EVENT, DownloadButton, RadioChoice, Slider
from svd_core.web.page.controls import Changes
from svd_core.web.page.formatting import duration, error_html, refused_html, size_text, status_html
from svd_core.web.page.generation import then_follow
from svd_core.web.page.i18n import client_text, texts_for
from svd_core.web.page.page_state import PageState

MOTION_RATIO = 1.6
"""Factor of the motion bucket for more motion: about the step from one preset to the next."""

MAIN_ACTIONS = ("save", "again", "more_motion", "extend")
"""Actions below the player."""

MENU_ACTIONS = ("less_motion", "last_frame")
"""Rarer actions, which `ExportPanel` has in its menu."""

CLICK_DOWNLOAD = """() => document.querySelector("#video a[download]")?.click()"""
"""The player's own download link has the file that is playing."""

MAX_FPS = 60
"""End of the slider; screens show no more."""


def increase_motion(params: VideoParams) -> VideoParams:
    """More motion: a larger bucket, and where it is at its maximum, more noise."""
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


MakeRequest = Callable[[Backend, Job], VideoRequest]

FOLLOW_UPS: Mapping[str, MakeRequest] = {
    "again": lambda backend, job: backend.rerun(job, with_new_seed),
    "more_motion": lambda backend, job: backend.rerun(job, increase_motion),
    "extend": Backend.extend,
    "less_motion": lambda backend, job: backend.rerun(job, decrease_motion),
}
"""From a finished video to the request of the next one, by action."""


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
    buttons["save"].click(None, js=CLICK_DOWNLOAD, api_visibility="private")
    for name, make in FOLLOW_UPS.items():

        def submit(
            ids: list[str], session: Any, request: gr.Request, make: MakeRequest = make
        ) -> Changes:
            job = state.backend.job(ids[0] if ids else None, session)
            t = texts_for(request)
            if job is None:
                return {state.player.line: error_html(t("nothing_there"))}
            try:
                follow_up = make(state.backend, job)
            except SvdError as error:
                return state.player.show_error(error, t)
            changes = state.submit(
                lambda session_id: [state.backend.submit_request(follow_up, session_id)],
                session,
                t,
            )
            return state.set_values(follow_up.params, t, changes)

        inputs = [state.player.current, state.session]
        then_follow(state, buttons[name].click, submit, inputs)

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


@dataclass(frozen=True)
class ExportPanel:
    """Menu below the player: the video in another format, rate or order, and rarer actions."""

    fps: Slider
    order: RadioChoice
    loops: Slider
    format: RadioChoice
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
                format = _choice("format", get_args(Format), "mp4")
                order = _choice("order", get_args(Order), "forward")
            with gr.Row():
                fps = _slider("fps", PARAMETERS["fps"].minimum, MAX_FPS, 7)
                loops = _slider("loops", 0, MAX_LOOPS, 0)
            download = DownloadButton.build(client_text("export_go"), "export-go", size="md")
            message = gr.HTML("", elem_id="export-said")
        return cls(fps, order, loops, format, download, message)


def _choice(name: str, values: tuple[str, ...], value: str) -> RadioChoice:
    return RadioChoice(
        [(str(client_text(f"{name}_{each.replace('-', '')}")), each) for each in values],
        value=value,
        label=client_text(f"export_{name}"),
        elem_id=f"export-{name}",
        elem_classes=["svd-segments"],
    )


def _slider(name: str, minimum: float, maximum: float, value: int) -> Slider:
    return Slider(
        minimum, maximum, value=value, step=1, label=client_text(f"export_{name}"),
        elem_id=f"export-{name}", buttons=[],
    )  # fmt: skip


def bind_export_panel(state: PageState, panel: ExportPanel) -> None:
    """Export the video in the player and download the file."""

    def on_go(
        ids: list[str], session: Any, format: Any, fps: Any, order: Any, loops: Any,
        interpolation: Any, request: gr.Request,
    ) -> Changes:  # fmt: skip
        t, started = texts_for(request), time.monotonic()
        job = state.backend.job(ids[0] if ids else None, session)
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
        message = t(
            "exported",
            name=path.name,
            size=size_text(path.stat().st_size, t),
            elapsed=duration(time.monotonic() - started, t),
        )
        return {panel.message: status_html(message), panel.download.file: path}

    control = state.controls["interpolation"]
    inputs = [panel.format, panel.fps, panel.order, panel.loops, control]
    panel.download.bind(on_go, [state.player.current, state.session, *inputs], panel.message)
