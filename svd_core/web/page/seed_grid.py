"""Four seeds, pick one: drafts of fewer steps side by side, and the chosen one made in full.

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
from svd_core.web.page import formatting
from svd_core.web.page.controls import Changes
from svd_core.web.page.i18n import texts_for
from svd_core.web.page.job_memo import memo, note
from svd_core.web.page.job_watch import then_watch
from svd_core.web.page.page_events import event_value
from svd_core.web.page.page_state import Studio

SEEDS = 4
SHARE = 0.4
"""Of the steps, for a draft: 10 of 25."""


def draft_steps(steps: int, speed: Speed = "exact") -> int:
    """Turbo's few steps cannot be fewer: each draws noise of its own."""
    return steps if speed == "turbo" else max(1, round(steps * SHARE))


def wire_sheet(studio: Studio) -> None:
    screen, backend = studio.screen, studio.backend

    def ask(photo: bytes | None, values: dict[str, Any], visitor: str) -> list[Job]:
        checkpoint = studio.offer.named(values["model"])
        own = at_speed(checkpoint, values["speed"]).num_inference_steps
        steps = values["num_inference_steps"] or own
        valid = str(steps).isdigit()
        few = draft_steps(int(steps), values["speed"]) if valid else steps  # the core complains
        memo = note(sheet=token_hex(8), steps=values["num_inference_steps"])
        drafts = [values | {"num_inference_steps": few, "seed": draw_seed()} for _ in range(SEEDS)]
        jobs = [backend.submit(photo, drafts[0], visitor, memo)]
        with suppress(QueueFull):  # then there are fewer to choose from
            for draft in drafts[1:]:
                jobs.append(backend.submit(photo, draft, visitor, memo))
        return jobs

    def on_sheet(given: dict[Any, Any], request: gr.Request) -> Changes:
        say, photo, values = texts_for(request), given[studio.photo], studio.values(given)
        return studio.begin(lambda visitor: ask(photo, values, visitor), given[studio.visitor], say)

    def on_picked(card: Any, event: gr.EventData, request: gr.Request) -> Changes:
        say, job = texts_for(request), backend.job(event_value(event, "job"), card)
        if job is None:
            return {screen.line: formatting.error_html(say("nothing_there"))}
        steps = memo(job).get("steps")
        try:
            full = backend.again(job, lambda params: replace(params, num_inference_steps=steps))
        except SvdError as error:
            return screen.refused(error, say)
        begun = studio.begin(lambda visitor: [backend.put(full, visitor)], card, say)
        return studio.shown(full.params, say, begun)

    then_watch(studio, screen.sheet.click, on_sheet, studio.asked)
    then_watch(studio, screen.forming.picked, on_picked, studio.visitor)
