"""Export panel: the finished video in another format, speed or order."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import gradio as gr

from svd_core.errors import SvdError
from svd_core.events import Succeeded
from svd_core.media.export import LOOPS, Export, Format, Order
from svd_core.params import LIMITS
from svd_core.web.page.components import DownloadButton, RadioChoice, Slider
from svd_core.web.page.controls import Changes
from svd_core.web.page.formatting import duration, error_html, refused_html, size_text, status_html
from svd_core.web.page.i18n import client_text, texts_for
from svd_core.web.page.page_state import PageState
from svd_core.web.page.result_actions import MENU_ACTIONS

MAX_FPS = 60
"""Where the slider ends; screens show no more."""


@dataclass(frozen=True)
class ExportPanel:
    fps: Slider
    order: RadioChoice
    loops: Slider
    format: RadioChoice
    download: DownloadButton
    message: gr.HTML

    @classmethod
    def build(cls, actions: Mapping[str, gr.Button]) -> "ExportPanel":
        """The menu below the player. `actions`: its buttons that are not rendered yet, too."""
        with gr.Accordion(client_text("export"), open=False, elem_id="export"):
            with gr.Row():
                for name in MENU_ACTIONS:
                    actions[name].render()  # type: ignore[no-untyped-call]
            with gr.Row():
                format = _choice("format", get_args(Format), "mp4")
                order = _choice("order", get_args(Order), "forward")
            with gr.Row():
                fps = _slider("fps", LIMITS["fps"].minimum, MAX_FPS, 7)
                loops = _slider("loops", LOOPS.minimum, LOOPS.maximum, 0)
            handed = DownloadButton.build(client_text("export_go"), "export-go", size="md")
            said = gr.HTML("", elem_id="export-said")
        return cls(fps, order, loops, format, handed, said)


def bind_export_panel(state: PageState, parts: ExportPanel) -> None:
    def on_go(
        ids: list[str], session: Any, format: Any, fps: Any, order: Any, loops: Any,
        interpolation: Any, request: gr.Request,
    ) -> Changes:  # fmt: skip
        t, begun = texts_for(request), time.monotonic()
        job = state.backend.job(ids[0] if ids else None, session)
        if job is None or not isinstance(job.last, Succeeded):
            return {parts.message: error_html(t("nothing_there")), parts.download.file: None}
        try:
            wanted = Export(
                format=format, fps=fps, order=order, loops=loops, interpolation=interpolation
            )
            path = parts.download.path_for(f"svd-{job.last.video.seed}{wanted.suffix}", job.id)
            state.backend.results.export(job.id, wanted, path)
        except SvdError as error:
            return {parts.message: refused_html(error, t), parts.download.file: None}
        told = t(
            "exported",
            name=path.name,
            size=size_text(path.stat().st_size, t),
            elapsed=duration(time.monotonic() - begun, t),
        )
        return {parts.message: status_html(told), parts.download.file: path}

    control = state.controls["interpolation"]
    inputs = [parts.format, parts.fps, parts.order, parts.loops, control]
    parts.download.bind(on_go, [state.player.current, state.session, *inputs], parts.message)


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
