"""Demo mode, for a projector: a large player and a strip of examples, and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

import gradio as gr

from svd_core.errors import SvdError
from svd_core.web.page.examples import Example
from svd_core.web.page.i18n import fixed
from svd_core.web.page.page_events import QUICK
from svd_core.web.page.page_state import Studio
from svd_core.web.page.playback import of_example
from svd_core.web.page.scripts import script


def demo_switch() -> None:
    gr.Button(fixed("demo"), size="sm", elem_id="demo-switch", min_width=110, scale=0)


@dataclass(frozen=True)
class Demo:
    """`files`: addresses of the examples with in-between frames, empty until the first opening."""

    stage: gr.HTML
    files: gr.HTML
    examples: Sequence[Example]

    @classmethod
    def build(cls, examples: Sequence[Example]) -> "Demo":
        strip = "".join(
            f'<button type="button" {_data(each, each.video)}><img src="{_url(each.photo)}" alt="" '
            f'loading="lazy">{escape(each.name)}</button>'
            for each in examples
        )
        leave = f'<button type="button" class="svd-leave">{fixed("demo_leave")}</button>'
        stage = gr.HTML(
            f'<dialog aria-label="Stable Video Diffusion">{leave}'
            f'<video muted loop playsinline></video><div class="svd-strip">{strip}</div></dialog>',
            elem_id="demo",
            js_on_load=script("kiosk.js"),
        )
        return cls(stage, gr.HTML("", elem_id="demo-files", visible="hidden"), examples)


def wire_demo(studio: Studio, demo: Demo) -> None:
    def on_opened() -> str:
        files = ((each, _playback_path(studio, each)) for each in demo.examples)
        return "".join(f"<i {_data(each, path)}></i>" for each, path in files)

    demo.stage.opened(on_opened, None, demo.files, **QUICK)


def _playback_path(studio: Studio, example: Example) -> Path:
    """The example's video with in-between frames, or as it is where these cannot be made."""
    try:
        return of_example(studio.backend.results, example.video, None).path
    except SvdError:
        return example.video


def _data(example: Example, video: Path) -> str:
    return f'data-name="{escape(example.name)}" data-video="{_url(video)}"'


def _url(path: object) -> str:
    return f"gradio_api/file={quote(str(path))}"
