"""Gallery actions: show, restore, remove and download; and what a returning visitor sees first."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from secrets import token_hex
from typing import Any

import gradio as gr
from gradio.events import Dependency

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.events import Failed, Stopped, Succeeded
from svd_core.jobs import Job
from svd_core.params import VideoParams
from svd_core.web.job_metadata import is_draft, read_memo
from svd_core.web.page.components import UNQUEUED_EVENT
from svd_core.web.page.controls import Changes
from svd_core.web.page.formatting import status_html
from svd_core.web.page.gallery import archive
from svd_core.web.page.generation import then_follow
from svd_core.web.page.i18n import Texts, texts_for
from svd_core.web.page.page_state import PageState


def bind_gallery_actions(page: gr.Blocks, state: PageState) -> Dependency:
    """Bind the buttons of the gallery, and show a returning visitor's last job.

    Returns the event after which that job, if there is one, is in the player.
    """
    gallery, session_ids = state.gallery, state.backend.session_ids

    def on_open(session: Any, current: list[str], request: gr.Request) -> Changes:
        session, t = session_ids.ensure_id(session), texts_for(request)
        jobs = [] if current else jobs_to_show(state, session)  # a click may have come first
        if jobs:
            return state.show_jobs(jobs, session, t)
        return {state.session: session} | state.refresh_gallery(session, t)

    def on_download(session: Any) -> Changes:
        key = archive_key(session_ids.owner(session))
        path = gallery.download.path_for("videos.zip", key)
        return {gallery.download.file: archive(state.backend.jobs(session), path)}

    def on_tick(session: Any, request: gr.Request) -> Changes:
        return state.refresh_gallery(session, texts_for(request))

    def on_chosen(session: Any, event: gr.EventData, request: gr.Request) -> Changes:
        t, job = texts_for(request), state.backend.job(getattr(event, "job", None), session)
        if job is None:
            return {state.player.line: status_html(t("nothing_there"))}
        action = getattr(event, "what", None)
        if action == "remove":
            state.backend.remove([job.id])
            gallery.download.discard(job.id, archive_key(session_ids.owner(session)))
            line = {state.player.line: status_html(t("removed"))}
            return line | state.refresh_gallery(session, t)
        if action == "restore":
            return restore_settings(state, job, t)
        return state.show_jobs([job], session, t)

    opened = then_follow(state, page.load, on_open, [state.session, state.player.current])
    for tiles in (gallery.waiting, gallery.tiles):
        then_follow(state, tiles.chosen, on_chosen, state.session)
    gallery.download.bind(on_download, state.session)
    gallery.timer.tick(on_tick, state.session, gallery.outputs, **UNQUEUED_EVENT)
    return opened


def archive_key(owner: str) -> str:
    """Unguessable key for the zip of a visitor's videos."""
    return hashlib.sha256(f"videos:{owner or token_hex()}".encode()).hexdigest()[:32]


def jobs_to_show(state: PageState, session: str) -> Sequence[Job]:
    """The jobs that a returning visitor sees: an open one, else the last video.

    A draft is shown with the others of its grid.
    """
    jobs = state.backend.jobs(session)
    jobs = [job for job in jobs if not isinstance(job.last, Failed | Stopped)]
    if not jobs:
        return []
    open_jobs = [job for job in jobs if not job.done]
    shown = open_jobs[-1] if open_jobs else jobs[0]
    if not is_draft(shown):
        return [shown]
    grid = read_memo(shown)["sheet"]
    return [job for job in reversed(jobs) if read_memo(job).get("sheet") == grid]


def restore_settings(state: PageState, job: Job, t: Texts) -> Changes:
    """The changes that restore controls and photo as they were for `job`."""
    if job.params is None:
        return {state.player.line: status_html(t("nothing_there"))}
    photo = state.backend.queue.photo(job.id)
    params, missing = _with_local_model(job, job.params, state.catalog, t)
    changes = state.set_values(params, t) | {state.random_seed: False}
    if photo is not None:
        changes[state.photo] = photo
    messages = [t("restored_without" if photo is None else "restored")]
    line = " ".join(messages + missing + state.unavailable_notes(params, t))
    return changes | {state.player.line: status_html(line)}


def _with_local_model(
    job: Job, params: VideoParams, catalog: ModelCatalog, t: Texts
) -> tuple[VideoParams, list[str]]:
    """The settings of `job` with the checkpoint that made it, or would have made it.

    None stands for the default checkpoint, which may have changed since. A checkpoint that the
    server no longer has is replaced by the default, with a message.
    """
    made_by = job.last.video.model if isinstance(job.last, Succeeded) else params.model
    if made_by in catalog.names:
        return replace(params, model=None if made_by == catalog.default.name else made_by), []
    if params.model is None:
        return params, []
    default = catalog.default.name
    return replace(params, model=None), [t("recipe_model_missing", other=made_by, model=default)]
