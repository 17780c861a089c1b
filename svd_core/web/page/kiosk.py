"""Kiosk mode for projectors: a large player that goes through the examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

import gradio as gr

from svd_core.errors import SvdError
from svd_core.web.page.components import UNQUEUED_EVENT, script
from svd_core.web.page.examples import Example
from svd_core.web.page.i18n import client_text
from svd_core.web.page.page_state import PageState
from svd_core.web.page.playback import playback_of_example


def kiosk_button() -> None:
    gr.Button(client_text("demo"), size="sm", elem_id="demo-switch", min_width=110, scale=0)


@dataclass(frozen=True)
class Kiosk:
    """`files`: addresses of the examples with in-between frames, empty until the first opening."""

    stage: gr.HTML
    files: gr.HTML
    examples: Sequence[Example]

    @classmethod
    def build(cls, examples: Sequence[Example]) -> "Kiosk":
        strip = "".join(
            f'<button type="button" {_data(each, each.video)}><img src="{_url(each.photo)}" alt="" '
            f'loading="lazy">{escape(each.name)}</button>'
            for each in examples
        )
        leave = f'<button type="button" class="svd-leave">{client_text("demo_leave")}</button>'
        stage = gr.HTML(
            f'<dialog aria-label="Stable Video Diffusion">{leave}'
            f'<video muted loop playsinline></video><div class="svd-strip">{strip}</div></dialog>',
            elem_id="demo",
            js_on_load=script("kiosk.js"),
        )
        return cls(stage, gr.HTML("", elem_id="demo-files", visible="hidden"), examples)


def bind_kiosk(state: PageState, kiosk: Kiosk) -> None:
    def on_opened() -> str:
        files = ((each, _playback_path(state, each)) for each in kiosk.examples)
        return "".join(f"<i {_data(each, path)}></i>" for each, path in files)

    kiosk.stage.opened(on_opened, None, kiosk.files, **UNQUEUED_EVENT)


def _playback_path(state: PageState, example: Example) -> Path:
    """The example's video with in-between frames, or as it is where these cannot be made."""
    try:
        return playback_of_example(state.backend.results, example.video, None).path
    except SvdError:
        return example.video


def _data(example: Example, video: Path) -> str:
    return f'data-name="{escape(example.name)}" data-video="{_url(video)}"'


def _url(path: object) -> str:
    return f"gradio_api/file={quote(str(path))}"
