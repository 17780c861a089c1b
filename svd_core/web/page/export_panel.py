"""The video on screen as another file: other speed, order or format, without making it again."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import gradio as gr

from svd_core.errors import SvdError
from svd_core.events import Succeeded
from svd_core.media.export import LOOPS, Export, Format, Order
from svd_core.params import LIMITS
from svd_core.web.page.components import Choice, Dial
from svd_core.web.page.controls import Changes
from svd_core.web.page.download_button import Handed
from svd_core.web.page.formatting import duration, error_html, refused_html, size_text, status_html
from svd_core.web.page.i18n import fixed, texts_for
from svd_core.web.page.page_state import Studio
from svd_core.web.page.result_actions import MENU

MOST_FPS = 60
"""Where the slider ends; screens show no more."""


@dataclass(frozen=True)
class Exporting:
    fps: Dial
    order: Choice
    loops: Dial
    format: Choice
    handed: Handed
    said: gr.HTML

    @classmethod
    def build(cls, actions: Mapping[str, gr.Button]) -> "Exporting":
        """The menu below the player. `actions`: its buttons that are not rendered yet, too."""
        with gr.Accordion(fixed("export"), open=False, elem_id="export"):
            with gr.Row():
                for name in MENU:
                    actions[name].render()  # type: ignore[no-untyped-call]
            with gr.Row():
                format = _choice("format", get_args(Format), "mp4")
                order = _choice("order", get_args(Order), "forward")
            with gr.Row():
                fps = _dial("fps", LIMITS["fps"].minimum, MOST_FPS, 7)
                loops = _dial("loops", LOOPS.minimum, LOOPS.maximum, 0)
            handed = Handed.build(fixed("export_go"), "export-go", size="md")
            said = gr.HTML("", elem_id="export-said")
        return cls(fps, order, loops, format, handed, said)


def wire_exporting(studio: Studio, parts: Exporting) -> None:
    def on_go(
        ids: list[str], card: Any, format: Any, fps: Any, order: Any, loops: Any,
        interpolation: Any, request: gr.Request,
    ) -> Changes:  # fmt: skip
        say, begun = texts_for(request), time.monotonic()
        job = studio.backend.job(ids[0] if ids else None, card)
        if job is None or not isinstance(job.last, Succeeded):
            return {parts.said: error_html(say("nothing_there")), parts.handed.file: None}
        try:
            wanted = Export(
                format=format, fps=fps, order=order, loops=loops, interpolation=interpolation
            )
            path = parts.handed.place(f"svd-{job.last.video.seed}{wanted.suffix}", job.id)
            studio.backend.results.export(job.id, wanted, path)
        except SvdError as error:
            return {parts.said: refused_html(error, say), parts.handed.file: None}
        told = say(
            "exported",
            name=path.name,
            size=size_text(path.stat().st_size, say),
            elapsed=duration(time.monotonic() - begun, say),
        )
        return {parts.said: status_html(told), parts.handed.file: path}

    dial = studio.dials["interpolation"]
    inputs = [parts.format, parts.fps, parts.order, parts.loops, dial]
    parts.handed.wire(on_go, [studio.screen.current, studio.visitor, *inputs], parts.said)


def _choice(name: str, values: tuple[str, ...], value: str) -> Choice:
    return Choice(
        [(str(fixed(f"{name}_{each.replace('-', '')}")), each) for each in values],
        value=value,
        label=fixed(f"export_{name}"),
        elem_id=f"export-{name}",
        elem_classes=["svd-segments"],
    )


def _dial(name: str, minimum: float, maximum: float, value: int) -> Dial:
    return Dial(
        minimum, maximum, value=value, step=1, label=fixed(f"export_{name}"),
        elem_id=f"export-{name}", buttons=[],
    )  # fmt: skip
