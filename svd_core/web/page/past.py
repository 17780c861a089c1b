"""What a visitor finds again: jobs under way after a reload, and the gallery's buttons."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from svd_core.jobs import Job
from svd_core.web.page.dials import Changes, shown
from svd_core.web.page.history import archive, is_draft
from svd_core.web.page.occasions import QUICK
from svd_core.web.page.screen import ended_otherwise
from svd_core.web.page.studio import Studio
from svd_core.web.page.texts import Texts, texts_for
from svd_core.web.page.visitor import known
from svd_core.web.page.words import status_html


def wire_past(page: gr.Blocks, studio: Studio) -> None:
    def on_open(card: Any, request: gr.Request) -> Changes:
        visitor = known(card)
        return {studio.visitor: visitor} | studio.history(visitor, texts_for(request))

    def on_shown(card: Any, current: list[str], request: gr.Request) -> Iterator[Changes]:
        visitor, say = known(card), texts_for(request)
        job = None if current else newest(studio, visitor)  # somebody may have been quicker
        if job is None:
            yield gr.skip()  # a generator that yields nothing would empty every output
        else:
            yield from studio.show(job, visitor, say)

    def on_download(card: Any) -> Changes:
        path = gallery.download.place("videos.zip")
        return {gallery.download.file: archive(studio.backend.jobs(card), path)}

    def on_tick(card: Any, request: gr.Request) -> Changes:
        return studio.history(known(card), texts_for(request))

    def on_chosen(card: Any, event: gr.EventData, request: gr.Request) -> Iterator[Changes]:
        say = texts_for(request)
        job = studio.backend.job(event.job, card)
        if job is None:
            yield {studio.screen.line: status_html(say("nothing_there"))}
        elif event.what == "remove":
            studio.backend.remove([job.id])
            yield {studio.screen.line: status_html(say("removed"))}
            yield studio.history(known(card), say)
        elif event.what == "restore":
            yield restored(studio, job, say)
        else:
            yield from studio.show(job, known(card), say)

    gallery = studio.gallery
    opened = page.load(on_open, studio.visitor, [studio.visitor, *gallery.outputs], **QUICK)
    # Only then: what is said before all parts are in place is lost on some of them.
    shown_before = [studio.visitor, studio.screen.current]
    opened.then(on_shown, shown_before, studio.outputs, **studio.watching)
    gallery.download.wire(on_download, studio.visitor)
    gallery.timer.tick(on_tick, studio.visitor, gallery.outputs, **QUICK)
    gallery.tiles.chosen(on_chosen, studio.visitor, studio.outputs, **studio.watching)


def newest(studio: Studio, visitor: str) -> Job | None:
    """What a visitor who comes back wants to see: the job under way, else the last video."""
    jobs = [job for job in studio.backend.jobs(visitor) if not ended_otherwise(job)]
    jobs = [job for job in jobs if not is_draft(job)]
    running = [job for job in jobs if not job.done]
    return next(iter(reversed(running)), next(iter(jobs), None))


def restored(studio: Studio, job: Job, say: Texts) -> Changes:
    """Dials and photo as they were for `job`."""
    if job.params is None:
        return {studio.screen.line: status_html(say("nothing_there"))}
    photo = studio.backend.queue.photo(job.id)
    changes = shown(job.params, studio.dials) | {studio.random: False}
    if photo is None:
        return changes | {studio.screen.line: status_html(say("restored_without"))}
    return changes | {studio.photo: photo, studio.screen.line: status_html(say("restored"))}
