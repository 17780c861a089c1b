"""Asking for videos, and then watching them: two events, one after the other.

The page only watches jobs, so closing the tab loses nothing. Gradio makes each output anew at each
step of a generator; so watching, which has many, names only what a job changes.
"""

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
from gradio.events import Dependency

from svd_core.errors import SvdError
from svd_core.web.page.controls import Changes
from svd_core.web.page.draft_tiles import watch_drafts
from svd_core.web.page.formatting import refused_html
from svd_core.web.page.i18n import texts_for
from svd_core.web.page.job_memo import is_draft
from svd_core.web.page.page_events import QUICK
from svd_core.web.page.page_state import Studio

SKIP: Changes = gr.skip()

Ask = Callable[..., Changes]
"""A handler that may turn the screen to jobs, see `Studio.turn_to`."""


def then_watch(
    studio: Studio, event: Callable[..., Any], ask: Ask, inputs: Any, *more: Any
) -> Dependency:
    """Have `event` call `ask`, and watch what that turned the screen to. `more`: other outputs.
    Returns the event after `ask`."""
    asked: Dependency = event(ask, inputs, [*studio.outputs, *more], **QUICK)
    watch_next(studio, asked)
    return asked


def watch_next(studio: Studio, asked: Any) -> None:
    screen = studio.screen

    def on_wanted(ids: list[str], card: Any, request: gr.Request) -> Iterator[Changes]:
        say, visitor = texts_for(request), studio.known(card)
        jobs = [job for job in (studio.backend.job(each, card) for each in ids) if job is not None]
        yield {screen.wanted: []}
        if len(jobs) > 1 and all(is_draft(job) for job in jobs):
            yield from watch_drafts(screen, jobs, say)
        else:
            for number, job in enumerate(jobs):
                if number:
                    yield screen.begin([job], say)
                yield from screen.watch(job, say)
        if jobs:
            yield studio.history(visitor, say)

    inputs = [screen.wanted, studio.visitor]
    play_smoothly(studio, asked.then(on_wanted, inputs, studio.watched, **studio.watching))


def play_smoothly(studio: Studio, shown: Dependency) -> None:
    """After `shown`, have the player take the file with in-between frames."""
    screen = studio.screen

    def on_shown(playing: Any, chosen: Any, card: Any, request: gr.Request) -> Changes:
        if playing is None:
            return SKIP
        try:
            changes = studio.playback(playing, chosen, card)
        except SvdError as error:
            return {screen.line: refused_html(error, texts_for(request))}
        # Meanwhile the visitor may have begun another video, which has the screen now.
        return SKIP if any(not job.done for job in studio.backend.jobs(card)) else changes

    inputs = [screen.playing, studio.chosen, studio.visitor]
    outputs = [screen.player, screen.playing, studio.dials["interpolation"], screen.line]
    shown.then(on_shown, inputs, outputs, **QUICK | {"trigger_mode": "multiple"})
