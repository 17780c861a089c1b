"""Submit and follow: one event submits jobs, the next one streams their progress.

The page only watches jobs, so closing the tab loses nothing. Gradio makes each output anew at each
step of a generator; so watching, which has many, names only what a job changes.

Drafts are followed side by side, each as a tile that selects it.
"""

from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any

import gradio as gr
from gradio.events import Dependency

from svd_core.errors import SvdError
from svd_core.events import Failed, Progress, Succeeded
from svd_core.jobs import Job
from svd_core.web.job_metadata import is_draft
from svd_core.web.page import formatting
from svd_core.web.page.components import UNQUEUED_EVENT
from svd_core.web.page.controls import Changes
from svd_core.web.page.error_translation import translate
from svd_core.web.page.formatting import refused_html
from svd_core.web.page.gallery import file_url
from svd_core.web.page.i18n import Texts, texts_for
from svd_core.web.page.page_state import PageState
from svd_core.web.page.player import Player


def follow_drafts(player: Player, jobs: Sequence[Job], t: Texts) -> Iterator[Changes]:
    """Show the drafts as they come, until all are there."""
    yield {player.preview: drafts_html(jobs, t)}
    try:
        for number, job in enumerate(jobs, 1):
            for event in job.events():
                if isinstance(event, Progress):
                    yield {player.line: _line(number, len(jobs), event, t)}
            yield {player.preview: drafts_html(jobs, t)}
    except SvdError as error:  # the server stops first; the jobs are kept
        yield player.end(formatting.refused_html(error, t))
        return
    good = any(isinstance(job.last, Succeeded) for job in jobs)
    yield player.end(formatting.status_html(t("sheet_done") if good else t("stopped")))


def drafts_html(jobs: Sequence[Job], t: Texts) -> str:
    return f'<div class="svd-sheet">{"".join(_tile(job, t) for job in jobs)}</div>'


def _tile(job: Job, t: Texts) -> str:
    match job.last:
        case Succeeded(video):
            return (
                f'<button type="button" data-job="{job.id}">'
                f'<video src="{file_url(video.path)}" autoplay muted loop playsinline '
                f'tabindex="-1"></video><span>{t("sheet_pick", seed=video.seed)}</span></button>'
            )
        case Failed(error):
            return f'<p class="svd-error">{escape(translate(error.message, t))}</p>'
        case _:
            return f"<p>{t('sheet_waits')}</p>"


def _line(number: int, count: int, event: Progress, t: Texts) -> str:
    stage = formatting.stage_text(event, t)
    sentence = t("sheet_line", number=number, count=count, progress=stage)
    return formatting.progress_html(sentence, event, t)


SKIP: Changes = gr.skip()

Ask = Callable[..., Changes]
"""A handler that may show jobs in the player, see `PageState.show_jobs`."""


def then_follow(
    state: PageState, event: Callable[..., Any], ask: Ask, inputs: Any, *more: Any
) -> Dependency:
    """On `event` call `ask`, then follow the jobs that it shows. `more`: other outputs.
    Returns the event after `ask`."""
    asked: Dependency = event(ask, inputs, [*state.outputs, *more], **UNQUEUED_EVENT)
    follow_next(state, asked)
    return asked


def follow_next(state: PageState, asked: Any) -> None:
    player = state.player

    def on_wanted(ids: list[str], session: Any, request: gr.Request) -> Iterator[Changes]:
        t, session_id = texts_for(request), state.ensure_session_id(session)
        jobs = [
            job for job in (state.backend.job(each, session) for each in ids) if job is not None
        ]
        yield {player.to_follow: []}
        if len(jobs) > 1 and all(is_draft(job) for job in jobs):
            yield from follow_drafts(player, jobs, t)
        else:
            for number, job in enumerate(jobs):
                if number:
                    yield player.begin([job], t)
                yield from player.follow(job, t)
        if jobs:
            yield state.refresh_gallery(session_id, t)

    inputs = [player.to_follow, state.session]
    play_interpolated(
        state, asked.then(on_wanted, inputs, state.followed_outputs, **state.follow_options)
    )


def play_interpolated(state: PageState, shown: Dependency) -> None:
    """After `shown`, have the player take the file with in-between frames."""
    player = state.player

    def on_shown(playing: Any, chosen: Any, session: Any, request: gr.Request) -> Changes:
        if playing is None:
            return SKIP
        try:
            changes = state.playback(playing, chosen, session)
        except SvdError as error:
            return {player.line: refused_html(error, texts_for(request))}
        # Meanwhile the visitor may have begun another video, which has the screen now.
        return SKIP if any(not job.done for job in state.backend.jobs(session)) else changes

    inputs = [player.playing, state.interpolation, state.session]
    outputs = [player.video, player.playing, state.controls["interpolation"], player.line]
    shown.then(on_shown, inputs, outputs, **UNQUEUED_EVENT | {"trigger_mode": "multiple"})
