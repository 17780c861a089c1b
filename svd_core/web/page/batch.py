"""Several photos at once: a job for each, with the settings on screen."""

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
from svd_core.web.page.error_translation import core
from svd_core.web.page.formatting import error_html, status_html
from svd_core.web.page.i18n import fixed, texts_for
from svd_core.web.page.job_watch import then_watch
from svd_core.web.page.page_state import Studio

MAX_PHOTOS = 100
"""Of one click. Each is decoded, and the line has 32 places unless the server is told otherwise."""

PHOTOS = [
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif",
]  # fmt: skip


@dataclass(frozen=True)
class Batch:
    photos: Files
    go: gr.Button
    said: gr.HTML

    @classmethod
    def build(cls) -> "Batch":
        with gr.Tab(fixed("batch"), elem_id="batch", render_children=True):
            return cls(
                Files(
                    label=fixed("batch_photos"),
                    file_count="multiple",
                    file_types=PHOTOS,
                    height=140,
                    elem_id="photos",
                ),
                gr.Button(fixed("batch_go"), elem_id="batch-go"),
                gr.HTML("", elem_id="batch-said"),
            )


def wire_batch(studio: Studio, batch: Batch) -> None:
    def on_go(given: dict[Any, Any], request: gr.Request) -> Changes:
        say, visitor = texts_for(request), studio.known(given[studio.visitor])
        values = studio.values(given)
        jobs: list[Job] = []
        lines = []
        for name in (given[batch.photos] or [])[:MAX_PHOTOS]:
            try:
                jobs.append(studio.backend.submit(_read(Path(name)), values, visitor))
            except QueueFull as error:  # so it is for the others, which need not be read
                lines.append(error_html(core(error.message, say)))
                break
            except SvdError as error:
                lines.append(error_html(f"{Path(name).name}: {core(error.message, say)}"))
        if jobs:
            lines.insert(0, status_html(say("batch_taken", count=len(jobs))))
        if not lines:
            lines.append(error_html(say("batch_none")))
        changes: Changes = {batch.said: "".join(lines), studio.visitor: visitor}
        return changes | studio.turn_to(jobs, visitor, say) if jobs else changes

    inputs: set[Block] = {batch.photos, *studio.asked}
    then_watch(studio, batch.go.click, on_go, inputs, batch.said)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)
