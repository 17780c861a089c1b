"""Batches: several videos from one click, with the settings on screen.

The batch panel submits one job for each of several photos. The seed grid submits four drafts of
one photo, each with its own seed and fewer steps; the chosen draft is made in full. The seed
decides the motion more than any slider. A draft has the size and the frames of the full video,
because other sizes or lengths draw other noise and so other motion.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex
from typing import Any

import gradio as gr
from gradio.blocks import Block

from svd_core.checkpoints.speed_modes import at_speed
from svd_core.errors import QueueFull, SvdError
from svd_core.jobs import Job
from svd_core.media.image import MAX_BYTES
from svd_core.params import Speed, draw_seed
from svd_core.web.job_metadata import read_memo, to_memo
from svd_core.web.page.components import Files, event_value
from svd_core.web.page.controls import Changes
from svd_core.web.page.formatting import error_html, refused_html, status_html
from svd_core.web.page.generation import then_follow
from svd_core.web.page.i18n import client_text, texts_for
from svd_core.web.page.page_state import PageState

MAX_PHOTOS = 100
"""Photos of one click. Each is decoded, and the queue has 32 places by default."""

PHOTO_SUFFIXES = [
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif",
]  # fmt: skip

NUM_DRAFTS = 4
DRAFT_STEP_SHARE = 0.4
"""Part of the steps that a draft takes: 10 of 25."""


@dataclass(frozen=True)
class Batch:
    """Batch panel: a field for several photos and a button that submits them all."""

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
                    file_types=PHOTO_SUFFIXES,
                    height=140,
                    elem_id="photos",
                ),
                gr.Button(client_text("batch_go"), elem_id="batch-go"),
                gr.HTML("", elem_id="batch-said"),
            )


def bind_batch(state: PageState, batch: Batch) -> None:
    """Submit one job for each photo, and follow those that the queue took."""

    def on_go(inputs: dict[Any, Any], request: gr.Request) -> Changes:
        t, session_id = texts_for(request), state.ensure_session_id(inputs[state.session])
        values = state.values(inputs)
        jobs: list[Job] = []
        lines = []
        for name in (inputs[batch.photos] or [])[:MAX_PHOTOS]:
            try:
                jobs.append(state.backend.submit(_read(Path(name)), values, session_id))
            except QueueFull as error:  # the other photos would be refused too
                lines.append(refused_html(error, t))
                break
            except SvdError as error:
                lines.append(error_html(f"{Path(name).name}: {t.message(error.message)}"))
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


def bind_seed_grid(state: PageState) -> None:
    """Submit four drafts at a click; make the chosen one in full."""
    player, backend = state.player, state.backend

    def submit_drafts(photo: bytes | None, values: dict[str, Any], session_id: str) -> list[Job]:
        checkpoint = state.catalog.get(values["model"])
        default_steps = at_speed(checkpoint, values["speed"]).num_inference_steps
        steps = values["num_inference_steps"] or default_steps
        is_number = str(steps).isdigit()  # if not, the core complains
        fewer_steps = draft_steps(int(steps), values["speed"]) if is_number else steps
        memo = to_memo(sheet=token_hex(8), steps=values["num_inference_steps"])
        drafts = [
            values | {"num_inference_steps": fewer_steps, "seed": draw_seed()}
            for _ in range(NUM_DRAFTS)
        ]
        jobs = [backend.submit(photo, drafts[0], session_id, memo)]
        with suppress(QueueFull):  # then there are fewer to choose from
            for draft in drafts[1:]:
                jobs.append(backend.submit(photo, draft, session_id, memo))
        return jobs

    def on_sheet(inputs: dict[Any, Any], request: gr.Request) -> Changes:
        t, photo, values = texts_for(request), inputs[state.photo], state.values(inputs)
        return state.submit(
            lambda session_id: submit_drafts(photo, values, session_id), inputs[state.session], t
        )

    def on_picked(session: Any, event: gr.EventData, request: gr.Request) -> Changes:
        t, job = texts_for(request), backend.job(event_value(event, "job"), session)
        if job is None:
            return {player.line: error_html(t("nothing_there"))}
        steps = read_memo(job).get("steps")
        try:
            full = backend.rerun(job, lambda params: replace(params, num_inference_steps=steps))
        except SvdError as error:
            return player.show_error(error, t)
        changes = state.submit(
            lambda session_id: [backend.submit_request(full, session_id)], session, t
        )
        return state.set_values(full.params, t, changes)

    then_follow(state, player.drafts.click, on_sheet, state.inputs)
    then_follow(state, player.preview.picked, on_picked, state.session)


def draft_steps(steps: int, speed: Speed = "exact") -> int:
    """Steps of a draft. Turbo's few steps stay, because each of them draws noise of its own."""
    return steps if speed == "turbo" else max(1, round(steps * DRAFT_STEP_SHARE))
