"""What the page does: it submits jobs and watches them; the work itself happens in the queue.

So closing the tab loses nothing, and coming back finds the job again by the id the browser kept.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from svd_core.errors import InvalidImage, SvdError, UnknownJob
from svd_core.events import Event, Failed, Progress, Succeeded
from svd_core.image import open_photo
from svd_core.jobs import Job, JobQueue
from svd_core.params import VideoParams, VideoRequest
from svd_core.web.page import words

NO_PHOTO = "There is no photo yet; upload one, paste one, or take one with the camera."

Changes = dict[Component, Any]
"""New values for some of the components; the others stay as they are."""


@dataclass(frozen=True)
class View:
    """The components a job is shown in. `job` is this tab's job, `kept` what survives a reload."""

    progress: gr.HTML
    video: gr.Video
    seed: Component
    summary: gr.HTML
    generate: gr.Button
    stop: gr.Button
    job: gr.State
    kept: gr.BrowserState

    @property
    def outputs(self) -> list[Component]:
        return [*vars(self).values()]

    def begin(self, job: Job) -> Changes:
        return {
            self.generate: gr.Button(interactive=False),
            self.stop: gr.Button(interactive=True),
            self.job: job.id,
            self.kept: job.id,
            self.video: None,
            self.summary: "",
            self.progress: words.event_html(job.last),
        }

    def change(self, event: Event) -> Changes:
        if isinstance(event, Progress):
            return {self.progress: words.event_html(event)}
        changes = self.end(words.event_html(event))
        if isinstance(event, Succeeded):
            changes[self.video] = event.video.path
            changes[self.seed] = str(event.video.seed)
            changes[self.summary] = words.summary_html(event.video)
        else:
            changes[self.kept] = None
        return changes

    def end(self, line: str) -> Changes:
        return {
            self.generate: gr.Button(interactive=True),
            self.stop: gr.Button(interactive=False),
            self.progress: line,
        }


def submit(queue: JobQueue, image: bytes | None, values: Mapping[str, object]) -> Job:
    """Put a job in line. `values` by core names; empty fields (None) are left to the defaults.

    Raises `InvalidRequest` (and with it `InvalidImage`), `QueueFull`.
    """
    if image is None:
        raise InvalidImage(NO_PHOTO)
    open_photo(image)  # a photo that cannot be used should not wait its turn to hear so
    given = {name: value for name, value in values.items() if value is not None}
    return queue.submit(VideoRequest(image, VideoParams.from_mapping(given)))


def generate(
    queue: JobQueue, view: View, image: bytes | None, values: Mapping[str, object]
) -> Iterator[Changes]:
    """Make a video and show how it comes along."""
    try:
        job = submit(queue, image, values)
    except SvdError as error:
        yield view.end(words.error_html(str(error)))
        raise shown(error) from None
    yield from watch(job, view)


def watch(job: Job, view: View) -> Iterator[Changes]:
    """Show `job` from its beginning to its end."""
    yield view.begin(job)
    try:
        for event in job.events():
            yield view.change(event)
            if isinstance(event, Failed):
                raise shown(event.error)
    except SvdError as error:  # the server stops first; the job is kept, here and there
        yield view.end(words.error_html(str(error)))
        raise shown(error) from None


def stop(queue: JobQueue, job_id: object) -> None:
    """Ask this tab's job to end. Its watcher shows that, and nobody else: two would race."""
    if (job := find(queue, job_id)) is not None:
        job.cancel()


def find(queue: JobQueue, job_id: object) -> Job | None:
    """The job of an id that a browser sent, or None if there is no such job."""
    try:
        return queue.get(job_id) if isinstance(job_id, str) else None
    except UnknownJob:
        return None


def shown(error: SvdError) -> gr.Error:
    """`error` as Gradio shows it: as a notice on the page, and word for word to API clients."""
    return gr.Error(str(error), print_exception=False)
