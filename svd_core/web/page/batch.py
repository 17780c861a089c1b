"""Batch panel: one job for each of several photos, with the settings on screen."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from svd_core.errors import QueueFull, SvdError
from svd_core.jobs import Job
from svd_core.media.image import MAX_BYTES
from svd_core.web.page.components import Files
from svd_core.web.page.controls import Changes
from svd_core.web.page.error_translation import translate
from svd_core.web.page.formatting import error_html, status_html
from svd_core.web.page.i18n import client_text, texts_for
from svd_core.web.page.job_watch import then_follow
from svd_core.web.page.page_state import PageState

MAX_PHOTOS = 100
"""Of one click. Each is decoded, and the line has 32 places unless the server is told otherwise."""

PHOTOS = [
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif",
]  # fmt: skip


@dataclass(frozen=True)
class Batch:
    photos: Files
    button: gr.Button
    message: gr.HTML

    @classmethod
    def build(cls) -> "Batch":
        with gr.Tab(client_text("batch"), elem_id="batch", render_children=True):
            return cls(
                Files(
                    label=client_text("batch_photos"),
                    file_count="multiple",
                    file_types=PHOTOS,
                    height=140,
                    elem_id="photos",
                ),
                gr.Button(client_text("batch_go"), elem_id="batch-go"),
                gr.HTML("", elem_id="batch-said"),
            )


def bind_batch(state: PageState, batch: Batch) -> None:
    def on_go(given: dict[Any, Any], request: gr.Request) -> Changes:
        t, session_id = texts_for(request), state.ensure_session_id(given[state.session])
        values = state.values(given)
        jobs: list[Job] = []
        lines = []
        for name in (given[batch.photos] or [])[:MAX_PHOTOS]:
            try:
                jobs.append(state.backend.submit(_read(Path(name)), values, session_id))
            except QueueFull as error:  # so it is for the others, which need not be read
                lines.append(error_html(translate(error.message, t)))
                break
            except SvdError as error:
                lines.append(error_html(f"{Path(name).name}: {translate(error.message, t)}"))
        if jobs:
            lines.insert(0, status_html(t("batch_taken", count=len(jobs))))
        if not lines:
            lines.append(error_html(t("batch_none")))
        changes: Changes = {batch.message: "".join(lines), state.session: session_id}
        return changes | state.show_jobs(jobs, session_id, t) if jobs else changes

    inputs: set[Block] = {batch.photos, *state.inputs}
    then_follow(state, batch.button.click, on_go, inputs, batch.message)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)
