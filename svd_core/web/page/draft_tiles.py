"""Drafts side by side: how they come along, and each a button that chooses it."""

from collections.abc import Iterator, Sequence
from html import escape

from svd_core.errors import SvdError
from svd_core.events import Failed, Progress, Succeeded
from svd_core.jobs import Job
from svd_core.web.page import formatting
from svd_core.web.page.controls import Changes
from svd_core.web.page.error_translation import core
from svd_core.web.page.gallery import file_url
from svd_core.web.page.i18n import Texts
from svd_core.web.page.player import Screen


def watch_drafts(screen: Screen, jobs: Sequence[Job], say: Texts) -> Iterator[Changes]:
    """Show the drafts as they come, until all are there."""
    yield {screen.forming: sheet_html(jobs, say)}
    try:
        for number, job in enumerate(jobs, 1):
            for event in job.events():
                if isinstance(event, Progress):
                    yield {screen.line: _line(number, len(jobs), event, say)}
            yield {screen.forming: sheet_html(jobs, say)}
    except SvdError as error:  # the server stops first; the jobs are kept
        yield screen.end(formatting.refused_html(error, say))
        return
    good = any(isinstance(job.last, Succeeded) for job in jobs)
    yield screen.end(formatting.status_html(say("sheet_done") if good else say("stopped")))


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
            return f'<p class="svd-error">{escape(core(error.message, say))}</p>'
        case _:
            return f"<p>{say('sheet_waits')}</p>"


def _line(number: int, count: int, event: Progress, say: Texts) -> str:
    stage = formatting.stage_text(event, say)
    sentence = say("sheet_line", number=number, count=count, progress=stage)
    return formatting.progress_html(sentence, event, say)
