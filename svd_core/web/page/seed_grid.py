"""Seed grid: four drafts of fewer steps to choose from; the chosen one is made in full.

The seed decides the motion more than any slider. A draft has the size and the frames of the full
video and only fewer steps, since other sizes or lengths draw other noise and so other motion.
"""

from contextlib import suppress
from dataclasses import replace
from secrets import token_hex
from typing import Any

import gradio as gr

from svd_core.checkpoints.speed_modes import at_speed
from svd_core.errors import QueueFull, SvdError
from svd_core.jobs import Job
from svd_core.params import Speed, draw_seed
from svd_core.web.job_metadata import read_memo, to_memo
from svd_core.web.page import formatting
from svd_core.web.page.components import event_value
from svd_core.web.page.controls import Changes
from svd_core.web.page.i18n import texts_for
from svd_core.web.page.job_watch import then_follow
from svd_core.web.page.page_state import PageState

NUM_DRAFTS = 4
DRAFT_STEP_SHARE = 0.4
"""Of the steps, for a draft: 10 of 25."""


def draft_steps(steps: int, speed: Speed = "exact") -> int:
    """Turbo's few steps cannot be fewer: each draws noise of its own."""
    return steps if speed == "turbo" else max(1, round(steps * DRAFT_STEP_SHARE))


def bind_seed_grid(state: PageState) -> None:
    player, backend = state.player, state.backend

    def ask(photo: bytes | None, values: dict[str, Any], session_id: str) -> list[Job]:
        checkpoint = state.catalog.get(values["model"])
        own = at_speed(checkpoint, values["speed"]).num_inference_steps
        steps = values["num_inference_steps"] or own
        valid = str(steps).isdigit()
        few = draft_steps(int(steps), values["speed"]) if valid else steps  # the core complains
        memo = to_memo(sheet=token_hex(8), steps=values["num_inference_steps"])
        drafts = [
            values | {"num_inference_steps": few, "seed": draw_seed()} for _ in range(NUM_DRAFTS)
        ]
        jobs = [backend.submit(photo, drafts[0], session_id, memo)]
        with suppress(QueueFull):  # then there are fewer to choose from
            for draft in drafts[1:]:
                jobs.append(backend.submit(photo, draft, session_id, memo))
        return jobs

    def on_sheet(given: dict[Any, Any], request: gr.Request) -> Changes:
        t, photo, values = texts_for(request), given[state.photo], state.values(given)
        return state.submit(
            lambda session_id: ask(photo, values, session_id), given[state.session], t
        )

    def on_picked(session: Any, event: gr.EventData, request: gr.Request) -> Changes:
        t, job = texts_for(request), backend.job(event_value(event, "job"), session)
        if job is None:
            return {player.line: formatting.error_html(t("nothing_there"))}
        steps = read_memo(job).get("steps")
        try:
            full = backend.rerun(job, lambda params: replace(params, num_inference_steps=steps))
        except SvdError as error:
            return player.show_error(error, t)
        begun = state.submit(
            lambda session_id: [backend.submit_request(full, session_id)], session, t
        )
        return state.set_values(full.params, t, begun)

    then_follow(state, player.drafts.click, on_sheet, state.inputs)
    then_follow(state, player.preview.picked, on_picked, state.session)
