"""Batches: several videos from one click, with the settings on screen.

The batch panel submits one job for each of several photos. The seed grid submits four drafts of
one photo, each with its own seed and fewer steps; the chosen draft is made in full. The seed
decides the motion more than any slider. A draft has the size and the frames of the full video,
because another size or length would draw other noise, and so another motion.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import Any

import gradio as gr

from svd_core.checkpoints.speed_modes import at_speed
from svd_core.errors import QueueFull, SvdError
from svd_core.jobs import Job
from svd_core.params import Speed, VideoRequest, draw_seed
from svd_core.web.job_metadata import read_memo, to_memo
from svd_core.web.page.components import Files, read_photo
from svd_core.web.page.controls import Changes, Inputs
from svd_core.web.page.formatting import error_html, refused_html, status_html
from svd_core.web.page.generation import then_follow
from svd_core.web.page.i18n import client_text, texts_for
from svd_core.web.page.page_state import PageState

MAX_PHOTOS = 100
"""Most photos of one click. Each is decoded, and the queue has 32 places by default."""

PHOTO_SUFFIXES = [
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif",
]  # fmt: skip

NUM_DRAFTS = 4
DRAFT_STEP_SHARE = 0.4
"""Share of the steps that a draft takes: 10 of 25."""


def batch_panel(state: PageState) -> None:
    """Panel that submits one job for each of several photos, and follows those in the queue."""
    with gr.Tab(client_text("batch"), elem_id="batch", render_children=True):
        photos = Files(
            label=client_text("batch_photos"), file_count="multiple", file_types=PHOTO_SUFFIXES,
            height=140, elem_id="photos",
        )  # fmt: skip
        button = gr.Button(client_text("batch_go"), elem_id="batch-go")
        message = gr.HTML("", elem_id="batch-said")

    def on_go(inputs: Inputs, request: gr.Request) -> Changes:
        t = texts_for(request)
        session = state.backend.session_ids.ensure_id(inputs[state.session])
        values = state.values(inputs)
        jobs: list[Job] = []
        lines = []
        for name in (inputs[photos] or [])[:MAX_PHOTOS]:
            try:
                jobs.append(state.backend.submit(read_photo(name), values, session))
            except QueueFull as error:  # the other photos would be refused too
                lines.append(refused_html(error, t))
                break
            except SvdError as error:
                lines.append(error_html(f"{Path(name).name}: {t.message(error.message)}"))
        if jobs:
            lines.insert(0, status_html(t("batch_taken", count=len(jobs))))
        changes: Changes = {message: "".join(lines) or error_html(t("batch_none"))}
        return changes | state.show_jobs(jobs, session, t) if jobs else changes

    then_follow(state, button.click, on_go, {photos, *state.inputs}, message)


def bind_seed_grid(state: PageState) -> None:
    """Submit four drafts at a click; make the chosen one in full."""
    player, backend = state.player, state.backend

    def submit_drafts(photo: bytes | None, values: dict[str, Any], session: str) -> list[Job]:
        checkpoint = state.catalog.get(values["model"])
        default_steps = at_speed(checkpoint, values["speed"]).num_inference_steps
        steps = values["num_inference_steps"] or default_steps
        is_number = str(steps).isdigit()  # if not, the core refuses it
        fewer_steps = draft_steps(int(steps), values["speed"]) if is_number else steps
        memo = to_memo(sheet=token_hex(8), steps=values["num_inference_steps"])
        drafts = [
            values | {"num_inference_steps": fewer_steps, "seed": draw_seed()}
            for _ in range(NUM_DRAFTS)
        ]
        jobs = [backend.submit(photo, drafts[0], session, memo)]
        with suppress(QueueFull):  # then there are fewer to choose from
            for draft in drafts[1:]:
                jobs.append(backend.submit(photo, draft, session, memo))
        return jobs

    def on_sheet(inputs: Inputs, request: gr.Request) -> Changes:
        t, session = texts_for(request), backend.session_ids.ensure_id(inputs[state.session])
        try:
            drafts = submit_drafts(inputs[state.photo], state.values(inputs), session)
        except SvdError as error:
            return player.show_error(error, t)
        return state.show_jobs(drafts, session, t)

    def on_picked(session: Any, event: gr.EventData, request: gr.Request) -> Changes:
        def full_video(draft: Job) -> VideoRequest:
            steps = read_memo(draft).get("steps")
            return backend.rerun(draft, lambda params: replace(params, num_inference_steps=steps))

        draft = backend.job(getattr(event, "job", None), session)
        return state.submit_follow_up(draft, full_video, session, texts_for(request))

    then_follow(state, player.drafts.click, on_sheet, state.inputs)
    then_follow(state, player.preview.picked, on_picked, state.session)


def draft_steps(steps: int, speed: Speed = "exact") -> int:
    """Steps of a draft. Turbo keeps its few steps, because each of them draws new noise."""
    return steps if speed == "turbo" else max(1, round(steps * DRAFT_STEP_SHARE))
