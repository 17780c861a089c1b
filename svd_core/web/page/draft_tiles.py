"""Draft tiles: drafts side by side while they are made, each a button that selects it."""

from collections.abc import Iterator, Sequence
from html import escape

from svd_core.errors import SvdError
from svd_core.events import Failed, Progress, Succeeded
from svd_core.jobs import Job
from svd_core.web.page import formatting
from svd_core.web.page.controls import Changes
from svd_core.web.page.error_translation import translate
from svd_core.web.page.gallery import file_url
from svd_core.web.page.i18n import Texts
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
