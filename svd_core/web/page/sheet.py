"""Four seeds, pick one: drafts of fewer steps side by side, and the chosen one made in full.

The seed decides the motion more than any slider. A draft has the size and the frames of the full
video and only fewer steps, since other sizes or lengths draw other noise and so other motion.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape
from secrets import token_hex
from typing import Any

import gradio as gr

from svd_core.errors import SvdError
from svd_core.events import Failed, Progress, Succeeded
from svd_core.jobs import Job
from svd_core.params import draw_seed
from svd_core.web.page import words
from svd_core.web.page.dials import Changes, shown
from svd_core.web.page.history import file_url, memo, note
from svd_core.web.page.studio import Studio
from svd_core.web.page.texts import Texts, texts_for
from svd_core.web.page.visitor import known

SEEDS = 4
SHARE = 0.4
"""Of the steps, for a draft: 10 of 25."""


def draft_steps(steps: int) -> int:
    return max(1, round(steps * SHARE))


def wire_sheet(studio: Studio) -> None:
    screen, backend = studio.screen, studio.backend

    def ask(photo: bytes | None, values: dict[str, Any], visitor: str) -> list[Job]:
        steps = values["num_inference_steps"] or backend.status().checkpoint.num_inference_steps
        few = draft_steps(int(steps)) if str(steps).isdigit() else steps  # the core will complain
        memo = note(sheet=token_hex(8), steps=values["num_inference_steps"])
        drafts = [values | {"num_inference_steps": few, "seed": draw_seed()} for _ in range(SEEDS)]
        return [backend.submit(photo, draft, visitor, memo) for draft in drafts]

    def on_sheet(given: dict[Any, Any], request: gr.Request) -> Iterator[Changes]:
        visitor, say = known(given[studio.visitor]), texts_for(request)
        try:
            jobs = ask(given[studio.photo], studio.values(given), visitor)
        except SvdError as error:
            yield screen.refused(error)
            return
        yield {studio.visitor: visitor}
        yield from watch_sheet(studio, jobs, visitor, say)

    def on_picked(card: Any, event: gr.EventData, request: gr.Request) -> Iterator[Changes]:
        job = backend.job(event.job, card)
        if job is None or job.params is None:
            return
        steps = memo(job).get("steps")
        try:
            full = backend.again(job, lambda params: replace(params, num_inference_steps=steps))
        except SvdError as error:
            yield screen.refused(error)
            return
        yield shown(full.params, studio.dials)
        yield from studio.run(
            lambda visitor: [backend.put(full, visitor)], card, texts_for(request)
        )

    screen.sheet.click(on_sheet, studio.asked, studio.outputs, **studio.watching)
    screen.forming.picked(on_picked, studio.visitor, studio.outputs, **studio.watching)


def watch_sheet(studio: Studio, jobs: Sequence[Job], visitor: str, say: Texts) -> Iterator[Changes]:
    """Show the drafts as they come, until all are there."""
    screen = studio.screen
    yield screen.begin(jobs, say, sheet_html(jobs, say)) | studio.history(visitor, say)
    try:
        for number, job in enumerate(jobs, 1):
            for event in job.events():
                if isinstance(event, Progress):
                    yield {screen.line: _line(number, len(jobs), event, say)}
            yield {screen.forming: sheet_html(jobs, say)}
    except SvdError as error:  # the server stops first; the jobs are kept
        yield screen.end(words.error_html(str(error)))
        return
    good = [job for job in jobs if isinstance(job.last, Succeeded)]
    done = say("sheet_done") if good else say("stopped")
    yield screen.end(words.status_html(done)) | studio.history(visitor, say)


def sheet_html(jobs: Sequence[Job], say: Texts) -> str:
    return f'<div class="svd-sheet">{"".join(_tile(job, say) for job in jobs)}</div>'


def _tile(job: Job, say: Texts) -> str:
    match job.last:
        case Succeeded(video):
            return (
                f'<button type="button" data-job="{job.id}">'
                f'<video src="{file_url(video.path)}" autoplay muted loop playsinline '
                f'tabindex="-1"></video><span>{say("sheet_pick", seed=video.seed)}</span></button>'
            )
        case Failed(error):
            return f'<p class="svd-error">{escape(str(error))}</p>'
        case _:
            return f"<p>{say('sheet_waits')}</p>"


def _line(number: int, count: int, event: Progress, say: Texts) -> str:
    text = words.progress_text(event, say)
    line = words.status_html(say("sheet_line", number=number, count=count, progress=text))
    return line + words.bar_html(event, say)
