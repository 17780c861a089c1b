"""Generation: one event submits jobs, the next one follows their progress to the videos.

Invariant: the page only watches jobs, so closing the tab loses nothing. Drafts are followed side by
side, each as a tile that selects it. Gradio rebuilds every output at each step of a generator,
so following names only the components that a job changes.
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
from svd_core.web.page.components import UNQUEUED_EVENT, script
from svd_core.web.page.controls import Changes, Inputs
from svd_core.web.page.framing import data_uri, frame_photo
from svd_core.web.page.gallery import file_url
from svd_core.web.page.i18n import Texts, texts_for
from svd_core.web.page.page_state import PageState
from svd_core.web.page.playback import play_interpolated
from svd_core.web.page.player import Player

PLACEHOLDER_SIDE = 640
"""Longer side in pixels of the picture that is shown until there is a preview."""


def bind_generate(state: PageState) -> None:
    """Submit a job with the Generate button, cancel jobs with the Stop button."""
    backend, player = state.backend, state.player

    def on_generate(inputs: Inputs, request: gr.Request) -> Changes:
        t, session = texts_for(request), backend.session_ids.ensure_id(inputs[state.session])
        try:
            job = backend.submit(inputs[state.photo], state.values(inputs), session)
        except SvdError as error:
            return player.show_error(error, t)
        return state.show_jobs([job], session, t, placeholder_html(state, inputs, t))

    def on_stop(ids: list[str], session: Any) -> None:
        """Cancel this visitor's jobs. Only the follower shows it: two would race."""
        for job_id in ids:
            if (job := backend.job(job_id, session)) is not None:
                job.cancel()

    then_follow(state, player.generate.click, on_generate, state.inputs)
    # On a phone the stage is below the fold. Nothing moves if it is in sight already.
    for button in (player.generate, player.drafts):
        button.click(None, js=script("scroll_to_stage.js"), api_visibility="private")
    player.stop.click(on_stop, [player.current, state.session], None, **UNQUEUED_EVENT)


def placeholder_html(state: PageState, inputs: Inputs, t: Texts) -> str:
    """The photo as the model sees it, shown until there is a preview."""
    if inputs[state.cached_photo] is None:
        return ""
    try:
        _, framed = frame_photo(state, inputs)
    except SvdError:
        return ""  # the job itself reports the error
    source = data_uri(framed.image, PLACEHOLDER_SIDE)
    return f'<img class="svd-still" alt="{t("screen_alt")}" src="{source}">'


def then_follow(
    state: PageState,
    event: Callable[..., Any],
    submit: Callable[..., Changes],
    inputs: Any,
    *more_outputs: Any,
) -> Dependency:
    """On `event` call `submit`, then follow the jobs that it shows, see `PageState.show_jobs`.

    Returns the event after `submit`.
    """
    player = state.player

    def follow(ids: list[str], session: Any, request: gr.Request) -> Iterator[Changes]:
        t = texts_for(request)
        jobs = [job for each in ids if (job := state.backend.job(each, session)) is not None]
        yield {player.to_follow: []}
        if len(jobs) > 1 and all(is_draft(job) for job in jobs):
            yield from follow_drafts(player, jobs, t)
        else:
            for number, job in enumerate(jobs):
                if number:
                    yield player.begin([job], t)
                yield from player.follow(job, t)
        if jobs:
            yield state.refresh_gallery(session, t)

    outputs = [*state.outputs, *more_outputs]
    submitted: Dependency = event(submit, inputs, outputs, **UNQUEUED_EVENT)
    followed = submitted.then(
        follow, [player.to_follow, state.session], state.followed_outputs, **state.follow_options
    )
    play_interpolated(state, followed)
    return submitted


def follow_drafts(player: Player, jobs: Sequence[Job], t: Texts) -> Iterator[Changes]:
    """Show each draft when it is finished, until all are."""
    yield {player.preview: drafts_html(jobs, t)}
    try:
        for number, job in enumerate(jobs, 1):
            for event in job.events():
                if isinstance(event, Progress):
                    stage = formatting.stage_text(event, t)
                    line = t("sheet_line", number=number, count=len(jobs), progress=stage)
                    yield {player.line: formatting.progress_html(line, event, t)}
            yield {player.preview: drafts_html(jobs, t)}
    except SvdError as error:  # the server is stopping; the jobs are kept
        yield player.end(formatting.refused_html(error, t))
        return
    any_made = any(isinstance(job.last, Succeeded) for job in jobs)
    yield player.end(formatting.status_html(t("sheet_done") if any_made else t("stopped")))


def drafts_html(jobs: Sequence[Job], t: Texts) -> str:
    """Grid of drafts; a finished one is a button."""
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
            return f'<p class="svd-error">{escape(t.message(error.message))}</p>'
        case _:
            return f"<p>{t('sheet_waits')}</p>"
