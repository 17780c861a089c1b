"""What a visitor finds again: jobs under way after a reload, and the gallery's buttons."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from secrets import token_hex
from typing import Any

import gradio as gr
from gradio.events import Dependency

from svd_core.checkpoints.catalog import Offer
from svd_core.events import Succeeded
from svd_core.jobs import Job
from svd_core.params import VideoParams
from svd_core.web.page.controls import Changes
from svd_core.web.page.formatting import status_html
from svd_core.web.page.gallery import archive
from svd_core.web.page.i18n import Texts, texts_for
from svd_core.web.page.job_memo import is_draft, memo
from svd_core.web.page.job_watch import then_watch
from svd_core.web.page.page_events import QUICK, event_value
from svd_core.web.page.page_state import Studio
from svd_core.web.page.player import ended_otherwise


def wire_past(page: gr.Blocks, studio: Studio) -> Dependency:
    """Returns the event after which the screen shows what the visitor left, if there is such."""

    def on_open(card: Any, current: list[str], request: gr.Request) -> Changes:
        visitor, say = studio.known(card), texts_for(request)
        jobs = [] if current else newest(studio, visitor)  # somebody may have been quicker
        turned = studio.turn_to(jobs, visitor, say) if jobs else studio.history(visitor, say)
        return {studio.visitor: visitor} | turned

    def on_download(card: Any) -> Changes:
        key = archive_key(studio.backend.visitors.owner(card))
        path = gallery.download.place("videos.zip", key)
        return {gallery.download.file: archive(studio.backend.jobs(card), path)}

    def on_tick(card: Any, request: gr.Request) -> Changes:
        return studio.history(studio.known(card), texts_for(request))

    def on_chosen(card: Any, event: gr.EventData, request: gr.Request) -> Changes:
        say, visitor = texts_for(request), studio.known(card)
        job = studio.backend.job(event_value(event, "job"), card)
        if job is None:
            return {studio.screen.line: status_html(say("nothing_there"))}
        action = event_value(event, "what")
        if action == "remove":
            studio.backend.remove([job.id])
            gallery.download.discard(job.id, archive_key(studio.backend.visitors.owner(card)))
            line = {studio.screen.line: status_html(say("removed"))}
            return line | studio.history(visitor, say)
        if action == "restore":
            return restored(studio, job, say)
        return studio.turn_to([job], visitor, say)

    gallery = studio.gallery
    opened = then_watch(studio, page.load, on_open, [studio.visitor, studio.screen.current])
    for tiles in (gallery.waiting, gallery.tiles):
        then_watch(studio, tiles.chosen, on_chosen, studio.visitor)
    gallery.download.wire(on_download, studio.visitor)
    gallery.timer.tick(on_tick, studio.visitor, gallery.outputs, **QUICK)
    return opened


def archive_key(owner: str) -> str:
    """Key under which the zip of a visitor's videos lies; nobody else can guess it."""
    return hashlib.sha256(f"videos:{owner or token_hex()}".encode()).hexdigest()[:32]


def newest(studio: Studio, visitor: str) -> Sequence[Job]:
    """What a visitor who comes back wants to see: what is under way, else the last video; drafts
    all together."""
    jobs = [job for job in studio.backend.jobs(visitor) if not ended_otherwise(job)]
    under_way = [job for job in jobs if not job.done]
    if not jobs:
        return []
    one = under_way[-1] if under_way else jobs[0]
    if not is_draft(one):
        return [one]
    return [job for job in reversed(jobs) if memo(job).get("sheet") == memo(one)["sheet"]]


def restored(studio: Studio, job: Job, say: Texts) -> Changes:
    """Dials and photo as they were for `job`."""
    if job.params is None:
        return {studio.screen.line: status_html(say("nothing_there"))}
    photo = studio.backend.queue.photo(job.id)
    params, missing = _as_here(job, job.params, studio.offer, say)
    changes = studio.shown(params, say) | {studio.random: False}
    if photo is not None:
        changes[studio.photo] = photo
    told = [say("restored_without" if photo is None else "restored")]
    line = " ".join(told + missing + studio.lacking(params, say))
    return changes | {studio.screen.line: status_html(line)}


def _as_here(
    job: Job, params: VideoParams, offer: Offer, say: Texts
) -> tuple[VideoParams, list[str]]:
    """The settings of `job` with the checkpoint that made it, or would have, if it is on offer. The
    usual one of then may be another now."""
    made_by = job.last.video.model if isinstance(job.last, Succeeded) else params.model
    if made_by in offer.names:
        return replace(params, model=None if made_by == offer.usual.name else made_by), []
    if params.model is None:
        return params, []
    usual = offer.usual.name
    return replace(params, model=None), [say("recipe_model_missing", other=made_by, model=usual)]
