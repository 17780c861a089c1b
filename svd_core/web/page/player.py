"""Player: progress line, preview, video, and the messages of a job.

The page only watches a job, so closing the tab loses nothing.
"""

import base64
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import gradio as gr
from gradio.blocks import Block

from svd_core.errors import InvalidRequest, SvdError
from svd_core.events import Event, Failed, Progress, Stopped, Succeeded
from svd_core.jobs import Job
from svd_core.web.page import formatting
from svd_core.web.page.components import VideoPlayer, script
from svd_core.web.page.controls import Changes, Controls, mark_invalid
from svd_core.web.page.i18n import Texts, client_text, languages

UPDATE_INTERVAL_S = 0.4
"""Seconds between two signs of progress, at least."""

JOB_CONTROLS = ("seed", "interpolation")
"""Dials that a job sets while it is watched."""

CLOCK_KEYS = ("elapsed", "left", "almost", "late", "seconds", "minutes", "hours")
"""Sentences that static/clock.js fills between two events."""


def status_line() -> gr.HTML:
    """The line below the video: how to begin, progress, the end of a job, errors."""
    sentences = {
        code: {key: t.sentences[key] for key in CLOCK_KEYS} for code, t in languages().items()
    }
    clock = script("clock.js").replace("SENTENCES = {}", f"SENTENCES = {json.dumps(sentences)}")
    return gr.HTML(client_text("hint"), elem_id="progress", padding=False, js_on_load=clock)


@dataclass(frozen=True)
class Player:
    """`preview` and `video` take turns. `result`: what can be done with a finished video.
    `current`: ids of the shown jobs, `to_follow`: of those to be followed next. `playing`: what the
    player has, {"job": id} or {"example": name}; None if it is neither. These three are the
    session's own knowledge."""

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
        """What a job changes while it is watched."""
        own = [part for name, part in vars(self).items() if name != "controls"]
        return [*own, *(self.controls[name] for name in JOB_CONTROLS)]

    @property
    def outputs(self) -> list[Block]:
        return [
            *self.followed_outputs,
            *(control for name, control in self.controls.items() if name not in JOB_CONTROLS),
        ]

    def begin(self, jobs: Sequence[Job], t: Texts, still: str = "") -> Changes:
        """`still`: HTML to show until there is a preview."""
        return {
            self.generate: gr.Button(interactive=False),
            self.drafts: gr.Button(interactive=False),
            self.stop: gr.Button(interactive=True),
            self.current: [job.id for job in jobs],
            self.video: gr.update(value=None, visible=False),
            self.playing: None,
            self.controls["interpolation"]: gr.update(visible="hidden"),
            self.preview: gr.update(value=still, visible=True),
            self.result: gr.update(visible=False),
            self.line: formatting.event_html(jobs[0].last, t),
        }

    def update(self, job: Job, event: Event, t: Texts, last: Progress | None) -> Changes:
        line = formatting.event_html(event, t, last)
        if isinstance(event, Progress):
            changes: Changes = {self.line: line}
            if event.preview:
                changes[self.preview] = preview_html(event.preview, t)
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
        return {
            self.generate: gr.Button(interactive=True),
            self.drafts: gr.Button(interactive=True),
            self.stop: gr.Button(interactive=False),
            self.line: line,
        }

    def show_error(self, error: SvdError, t: Texts) -> Changes:
        """What was asked for cannot be: said here, and beside the field that is to blame."""
        changes = self.end(formatting.refused_html(error, t))
        if isinstance(error, InvalidRequest):
            changes |= mark_invalid(error, self.controls, t)
        return changes

    def follow(self, job: Job, t: Texts) -> Iterator[Changes]:
        """Show `job` to its end. What comes faster than it can be read is left out."""
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
        except SvdError as error:  # the server stops first; the job is kept
            yield self.end(formatting.refused_html(error, t))

    def clear(self) -> Changes:
        """Nothing on the screen but how to begin."""
        return self.end(str(client_text("hint"))) | {
            self.current: [],
            self.video: gr.update(value=None, visible=True),
            self.playing: None,
            self.preview: gr.update(value="", visible=False),
            self.result: gr.update(visible=False),
        }


def preview_html(picture: bytes, t: Texts) -> str:
    """A small moving picture, within the page's own bytes: no file of it is kept."""
    data = base64.b64encode(picture).decode()
    return f'<img alt="{t("preview_alt")}" src="data:image/webp;base64,{data}">'


def _is_significant(event: Event, last: Progress | None) -> bool:
    """Whether `event` says more than that time goes by."""
    if last is None or not isinstance(event, Progress) or event.preview:
        return True
    return (event.stage, event.note) != (last.stage, last.note)


def ended_without_video(job: Job) -> bool:
    return isinstance(job.last, Failed | Stopped)
