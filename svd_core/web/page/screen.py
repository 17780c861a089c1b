"""Where a video forms and plays: the line of progress, the picture, the player and what is said.

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
from svd_core.web.page import words
from svd_core.web.page.components import Clip
from svd_core.web.page.dials import Changes, Dials, marked
from svd_core.web.page.scripts import script
from svd_core.web.page.texts import Texts, fixed, languages

EVERY_S = 0.4
"""Seconds between two signs of progress, at least."""

CHANGED = ("seed", "interpolation")
"""Dials that a job sets while it is watched."""

CLOCK_KEYS = ("elapsed", "left", "almost", "late", "seconds", "minutes", "hours")
"""Sentences that static/clock.js fills between two events."""

PICK = """
element.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-job]");
    if (button) trigger("picked", { job: button.dataset.job });
});
"""



def status_line() -> gr.HTML:
    """The line below the video: how to begin, progress, the end of a job, errors."""
    sentences = {
        code: {key: say.sentences[key] for key in CLOCK_KEYS} for code, say in languages().items()
    }
    clock = script("clock.js").replace("SENTENCES = {}", f"SENTENCES = {json.dumps(sentences)}")
    return gr.HTML(fixed("hint"), elem_id="progress", padding=False, js_on_load=clock)


@dataclass(frozen=True)
class Screen:
    """`forming` and `player` take turns. `result`: what can be done with a finished video.
    `current`: ids of the jobs that are shown, `wanted`: of those that are
    to be watched next. `playing`: what the player has, {"job": id} or {"example": name}; None if
    it is neither. These three are the session's own knowledge."""

    line: gr.HTML
    forming: gr.HTML
    player: Clip
    result: gr.Column
    summary: gr.HTML
    generate: gr.Button
    sheet: gr.Button
    stop: gr.Button
    current: gr.State
    wanted: gr.State
    playing: gr.State
    dials: Dials

    @property
    def watched(self) -> list[Block]:
        """What a job changes while it is watched."""
        own = [part for name, part in vars(self).items() if name != "dials"]
        return [*own, *(self.dials[name] for name in CHANGED)]

    @property
    def outputs(self) -> list[Block]:
        return [*self.watched, *(dial for name, dial in self.dials.items() if name not in CHANGED)]

    def begin(self, jobs: Sequence[Job], say: Texts, still: str = "") -> Changes:
        """`still`: HTML to show until there is a preview."""
        return {
            self.generate: gr.Button(interactive=False),
            self.sheet: gr.Button(interactive=False),
            self.stop: gr.Button(interactive=True),
            self.current: [job.id for job in jobs],
            self.player: gr.update(value=None, visible=False),
            self.playing: None,
            self.dials["interpolation"]: gr.update(visible="hidden"),
            self.forming: gr.update(value=still, visible=True),
            self.result: gr.update(visible=False),
            self.line: words.event_html(jobs[0].last, say),
        }

    def change(self, job: Job, event: Event, say: Texts, last: Progress | None) -> Changes:
        line = words.event_html(event, say, last)
        if isinstance(event, Progress):
            changes: Changes = {self.line: line}
            if event.preview:
                changes[self.forming] = preview_html(event.preview, say)
            return changes
        changes = self.end(line)
        if isinstance(event, Succeeded):
            video = event.video
            changes |= {
                self.forming: gr.update(value="", visible=False),
                self.player: gr.update(value=video.path, visible=True),
                self.playing: {"job": job.id},
                self.result: gr.update(visible=True),
                self.summary: words.summary_html(video, say),
                self.dials["seed"]: str(video.seed),
            }
        return changes

    def end(self, line: str) -> Changes:
        return {
            self.generate: gr.Button(interactive=True),
            self.sheet: gr.Button(interactive=True),
            self.stop: gr.Button(interactive=False),
            self.line: line,
        }

    def refused(self, error: SvdError, say: Texts) -> Changes:
        """What was asked for cannot be: said here, and beside the field that is to blame."""
        changes = self.end(words.refused_html(error, say))
        if isinstance(error, InvalidRequest):
            changes |= marked(error, self.dials, say)
        return changes

    def watch(self, job: Job, say: Texts) -> Iterator[Changes]:
        """Show `job` to its end. What comes faster than it can be read is left out."""
        last: Progress | None = None
        shown = 0.0
        try:
            for event in job.events():
                now = time.monotonic()
                if _matters(event, last) or now - shown >= EVERY_S:
                    yield self.change(job, event, say, last)
                    shown = now
                if isinstance(event, Progress):
                    last = event
        except SvdError as error:  # the server stops first; the job is kept
            yield self.end(words.refused_html(error, say))

    def cleared(self) -> Changes:
        """Nothing on the screen but how to begin."""
        return self.end(str(fixed("hint"))) | {
            self.current: [],
            self.player: gr.update(value=None, visible=True),
            self.playing: None,
            self.forming: gr.update(value="", visible=False),
            self.result: gr.update(visible=False),
        }


def preview_html(picture: bytes, say: Texts) -> str:
    """A small moving picture, within the page's own bytes: no file of it is kept."""
    data = base64.b64encode(picture).decode()
    return f'<img alt="{say("preview_alt")}" src="data:image/webp;base64,{data}">'


def _matters(event: Event, last: Progress | None) -> bool:
    """Whether `event` says more than that time goes by."""
    if last is None or not isinstance(event, Progress) or event.preview:
        return True
    return (event.stage, event.note) != (last.stage, last.note)


def ended_otherwise(job: Job) -> bool:
    return isinstance(job.last, Failed | Stopped)
