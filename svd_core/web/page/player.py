"""Player: progress line, preview, video, and the messages of a job."""

import base64
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import gradio as gr
from gradio.blocks import Block

from svd_core.errors import InvalidRequest, SvdError
from svd_core.events import Event, Progress, Succeeded
from svd_core.jobs import Job
from svd_core.web.page import formatting
from svd_core.web.page.components import VideoPlayer, script
from svd_core.web.page.controls import Changes, Controls, error_update
from svd_core.web.page.i18n import Texts, client_text, languages

UPDATE_INTERVAL_S = 0.4
"""Shortest time in seconds between two updates of the progress."""

JOB_CONTROLS = ("seed", "interpolation")
"""Controls that a job sets while the page follows it."""

CLOCK_KEYS = ("elapsed", "left", "almost", "late", "seconds", "minutes", "hours")
"""Texts that static/clock.js fills between two events."""


def status_line() -> gr.HTML:
    """Line below the video: hint for the first video, progress, end of a job, errors."""
    sentences = {
        code: {key: t.sentences[key] for key in CLOCK_KEYS} for code, t in languages().items()
    }
    clock = script("clock.js").replace("SENTENCES = {}", f"SENTENCES = {json.dumps(sentences)}")
    return gr.HTML(client_text("hint"), elem_id="progress", padding=False, js_on_load=clock)


@dataclass(frozen=True)
class Player:
    """Components that show a job.

    Either `preview` or `video` is visible. `result`: actions on a finished video. `current`: ids of
    the shown jobs. `to_follow`: ids of the jobs to follow next. `playing`: what the player has,
    {"job": id} or {"example": name}; None for neither. These three are states of the session.
    """

    line: gr.HTML
    preview: gr.HTML
    video: VideoPlayer
    result: gr.Column
    summary: gr.HTML
    generate: gr.Button
    drafts: gr.Button
    stop: gr.Button
    current: gr.State
    to_follow: gr.State
    playing: gr.State
    controls: Controls

    @property
    def followed_outputs(self) -> list[Block]:
        """Components that a job changes while the page follows it."""
        parts = [part for name, part in vars(self).items() if name != "controls"]
        return [*parts, *(self.controls[name] for name in JOB_CONTROLS)]

    def begin(self, jobs: Sequence[Job], t: Texts, placeholder: str = "") -> Changes:
        """The changes that show new jobs. `placeholder`: HTML until there is a preview."""
        return {
            self.generate: gr.Button(interactive=False),
            self.drafts: gr.Button(interactive=False),
            self.stop: gr.Button(interactive=True),
            self.current: [job.id for job in jobs],
            self.video: gr.update(value=None, visible=False),
            self.playing: None,
            self.controls["interpolation"]: gr.update(visible="hidden"),
            self.preview: gr.update(value=placeholder, visible=True),
            self.result: gr.update(visible=False),
            self.line: formatting.event_html(jobs[0].last, t),
        }

    def update(self, job: Job, event: Event, t: Texts, last: Progress | None) -> Changes:
        """The changes after an event. `last`: the progress before it."""
        line = formatting.event_html(event, t, last)
        if isinstance(event, Progress):
            changes: Changes = {self.line: line}
            if event.preview:
                picture = base64.b64encode(event.preview).decode()  # small, so no file is kept
                source = f"data:image/webp;base64,{picture}"
                changes[self.preview] = f'<img alt="{t("preview_alt")}" src="{source}">'
            return changes
        changes = self.end(line)
        if isinstance(event, Succeeded):
            video = event.video
            changes |= {
                self.preview: gr.update(value="", visible=False),
                self.video: gr.update(value=video.path, visible=True),
                self.playing: {"job": job.id},
                self.result: gr.update(visible=True),
                self.summary: formatting.summary_html(video, t),
                self.controls["seed"]: str(video.seed),
            }
        return changes

    def end(self, line: str) -> Changes:
        """The changes after the last job, with a message."""
        return {
            self.generate: gr.Button(interactive=True),
            self.drafts: gr.Button(interactive=True),
            self.stop: gr.Button(interactive=False),
            self.line: line,
        }

    def show_error(self, error: SvdError, t: Texts) -> Changes:
        """The changes after a refused request: the error, here and at the control it is about."""
        changes = self.end(formatting.refused_html(error, t))
        control = self.controls.get(error.field) if isinstance(error, InvalidRequest) else None
        if control is not None:
            changes[control] = error_update(control, t.message(error.message))
        return changes

    def follow(self, job: Job, t: Texts) -> Iterator[Changes]:
        """Follow `job` to its end, skipping updates that come faster than anyone can read."""
        last: Progress | None = None
        shown = 0.0
        try:
            for event in job.events():
                now = time.monotonic()
                if _is_significant(event, last) or now - shown >= UPDATE_INTERVAL_S:
                    yield self.update(job, event, t, last)
                    shown = now
                if isinstance(event, Progress):
                    last = event
        except SvdError as error:  # the server is stopping; the job is kept
            yield self.end(formatting.refused_html(error, t))

    def clear(self) -> Changes:
        """The changes that empty the player and show the hint for the first video."""
        return self.end(str(client_text("hint"))) | {
            self.current: [],
            self.video: gr.update(value=None, visible=True),
            self.playing: None,
            self.preview: gr.update(value="", visible=False),
            self.result: gr.update(visible=False),
        }


def _is_significant(event: Event, last: Progress | None) -> bool:
    """Whether `event` reports more than elapsed time."""
    if last is None or not isinstance(event, Progress) or event.preview:
        return True
    return (event.stage, event.note) != (last.stage, last.note)
