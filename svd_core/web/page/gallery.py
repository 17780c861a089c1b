"""Gallery: the visitor's own videos, with their settings and actions.

It is read from the job table, so it survives reloads and restarts.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from svd_core.events import Failed, Progress, Stopped, Succeeded
from svd_core.jobs import Job
from svd_core.media.ffmpeg import atomic_write
from svd_core.params import VideoParams
from svd_core.web.job_metadata import is_draft
from svd_core.web.page import formatting
from svd_core.web.page.components import DownloadButton, script
from svd_core.web.page.i18n import Texts, client_text

SHOWN_SETTINGS = (
    "model", "motion_bucket_id", "noise_aug_strength", "fps", "num_inference_steps", "num_frames",
    "min_guidance_scale", "max_guidance_scale",
)  # fmt: skip
"""Settings that a tile lists, except those left to the model."""


@dataclass(frozen=True)
class Gallery:
    """Tab with tiles of open and finished jobs, and a download of all videos."""

    waiting: gr.HTML
    tiles: gr.HTML
    timer: gr.Timer
    download: DownloadButton
    header: gr.Row
    empty: gr.HTML

    @classmethod
    def build(cls) -> "Gallery":
        with gr.Tab(client_text("history"), elem_id="history", id="history", render_children=True):
            with gr.Row(elem_id="history-top", visible=False) as header:
                gr.HTML(client_text("history_kept"), padding=False)
                download = DownloadButton.build(
                    client_text("download_all"), "all", size="sm", scale=0, min_width=160
                )
            empty = gr.HTML(client_text("history_none"), elem_id="nothing", padding=False)
            waiting = gr.HTML("", elem_id="waiting", js_on_load=script("gallery.js"))
            tiles = gr.HTML("", elem_id="tiles", js_on_load=script("gallery.js"))
        return cls(waiting, tiles, gr.Timer(3.0, active=False), download, header, empty)

    @property
    def outputs(self) -> list[Any]:
        """Components that `update` changes."""
        return [self.waiting, self.tiles, self.timer, self.header, self.empty]

    def update(self, jobs: Sequence[Job], t: Texts) -> dict[Any, Any]:
        """The changes that show `jobs`.

        Finished jobs have their own element. They change rarely, and a changed element plays its
        videos from the start.
        """
        waiting = _tiles([job for job in jobs if not job.done], t)
        finished = _tiles([job for job in jobs if job.done], t)
        return {
            self.waiting: waiting,
            self.tiles: finished,
            self.timer: gr.Timer(active=bool(waiting)),
            self.header: gr.update(visible=bool(waiting or finished)),
            self.empty: gr.update(visible=not (waiting or finished)),
        }


def _tiles(jobs: Sequence[Job], t: Texts) -> str:
    html = "".join(tile_html(job, t) for job in jobs)
    return f'<ul class="svd-tiles">{html}</ul>' if html else ""


def tile_html(job: Job, t: Texts) -> str:
    """Tile of a job: its video, progress or error, its settings and its buttons."""
    last, params = job.last, job.params
    name = settings_text(params, t) if params else ""
    remove = _button("remove", job, t("remove"), confirm=t("remove_sure"))
    match last:
        case Succeeded(video):
            content = (
                f'<video src="{file_url(video.path)}" muted loop playsinline '
                f'tabindex="-1" aria-label="{escape(name)}"></video>'
            )
            buttons = _button("show", job, t("show")) + _button("restore", job, t("restore"))
        case Failed(error):
            content = f'<p class="svd-error">{escape(t.message(error.message))}</p>'
            buttons = ""
        case Progress():
            content = f'<div class="svd-wait">{formatting.event_html(last, t)}</div>'
            buttons, remove = _button("watch", job, t("watch")), ""
        case Stopped():
            return ""
    draft = f"<b>{t('draft')}</b> " if is_draft(job) else ""
    return (
        f'<li><div class="svd-thumb">{content}</div><p class="svd-told">{draft}{escape(name)}</p>'
        f'<div class="svd-buttons">{buttons}{remove}</div></li>'
    )


def settings_text(params: VideoParams, t: Texts) -> str:
    """The settings in one line: seed, motion, and others that are not left to the model."""
    values = params.to_mapping()
    settings = [f"{t('seed')} {params.seed}"]
    settings += [f"{t(name)} {values[name]}" for name in SHOWN_SETTINGS if values[name] is not None]
    return " · ".join(settings)


def file_url(path: Path) -> str:
    """URL of a result or an example on the page's server."""
    return f"gradio_api/file={quote(str(path))}"


def archive(jobs: Sequence[Job], path: Path) -> Path:
    """Write all videos into one zip at `path`, the newest first."""
    videos = [job.last.video for job in jobs if isinstance(job.last, Succeeded)]
    # An mp4 is compressed already.
    with atomic_write(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as file:
        for number, video in enumerate([v for v in videos if v.path.is_file()], 1):
            file.write(video.path, f"{number:02}-seed-{video.seed}.mp4")
    return path


def _button(action: str, job: Job, text: str, confirm: str = "") -> str:
    data = f'data-do="{action}" data-job="{job.id}"'
    if confirm:
        data += f' data-sure="{escape(confirm)}"'
    return f'<button type="button" {data}>{escape(text)}</button>'
