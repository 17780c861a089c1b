"""Gallery actions, and what a returning visitor sees first."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from secrets import token_hex
from typing import Any

import gradio as gr
from gradio.events import Dependency

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.events import Succeeded
from svd_core.jobs import Job
from svd_core.params import VideoParams
from svd_core.web.page.components import UNQUEUED_EVENT, event_value
from svd_core.web.page.controls import Changes
from svd_core.web.page.formatting import status_html
from svd_core.web.page.gallery import archive
from svd_core.web.page.generation import then_follow
from svd_core.web.page.i18n import Texts, texts_for
from svd_core.web.page.job_memo import is_draft, read_memo
from svd_core.web.page.page_state import PageState
from svd_core.web.page.player import ended_without_video


def bind_gallery_actions(page: gr.Blocks, state: PageState) -> Dependency:
    """Returns the event after which the screen shows what the visitor left, if there is such."""

    def on_open(session: Any, current: list[str], request: gr.Request) -> Changes:
        session_id, t = state.ensure_session_id(session), texts_for(request)
        jobs = [] if current else jobs_to_show(state, session_id)  # somebody may have been quicker
        turned = (
            state.show_jobs(jobs, session_id, t) if jobs else state.refresh_gallery(session_id, t)
        )
        return {state.session: session_id} | turned

    def on_download(session: Any) -> Changes:
        key = archive_key(state.backend.session_ids.owner(session))
        path = gallery.download.path_for("videos.zip", key)
        return {gallery.download.file: archive(state.backend.jobs(session), path)}

    def on_tick(session: Any, request: gr.Request) -> Changes:
        return state.refresh_gallery(state.ensure_session_id(session), texts_for(request))

    def on_chosen(session: Any, event: gr.EventData, request: gr.Request) -> Changes:
        t, session_id = texts_for(request), state.ensure_session_id(session)
        job = state.backend.job(event_value(event, "job"), session)
        if job is None:
            return {state.player.line: status_html(t("nothing_there"))}
        action = event_value(event, "what")
        if action == "remove":
            state.backend.remove([job.id])
            gallery.download.discard(job.id, archive_key(state.backend.session_ids.owner(session)))
            line = {state.player.line: status_html(t("removed"))}
            return line | state.refresh_gallery(session_id, t)
        if action == "restore":
            return restore_settings(state, job, t)
        return state.show_jobs([job], session_id, t)

    gallery = state.gallery
    opened = then_follow(state, page.load, on_open, [state.session, state.player.current])
    for tiles in (gallery.waiting, gallery.tiles):
        then_follow(state, tiles.chosen, on_chosen, state.session)
    gallery.download.bind(on_download, state.session)
    gallery.timer.tick(on_tick, state.session, gallery.outputs, **UNQUEUED_EVENT)
    return opened


def archive_key(owner: str) -> str:
    """Key under which the zip of a visitor's videos lies; nobody else can guess it."""
    return hashlib.sha256(f"videos:{owner or token_hex()}".encode()).hexdigest()[:32]


def jobs_to_show(state: PageState, session_id: str) -> Sequence[Job]:
    """What a visitor who comes back wants to see: what is under way, else the last video; drafts
    all together."""
    jobs = [job for job in state.backend.jobs(session_id) if not ended_without_video(job)]
    under_way = [job for job in jobs if not job.done]
    if not jobs:
        return []
    one = under_way[-1] if under_way else jobs[0]
    if not is_draft(one):
        return [one]
    return [job for job in reversed(jobs) if read_memo(job).get("sheet") == read_memo(one)["sheet"]]


def restore_settings(state: PageState, job: Job, t: Texts) -> Changes:
    """Dials and photo as they were for `job`."""
    if job.params is None:
        return {state.player.line: status_html(t("nothing_there"))}
    photo = state.backend.queue.photo(job.id)
    params, missing = _with_local_model(job, job.params, state.catalog, t)
    changes = state.set_values(params, t) | {state.random_seed: False}
    if photo is not None:
        changes[state.photo] = photo
    told = [t("restored_without" if photo is None else "restored")]
    line = " ".join(told + missing + state.unavailable_notes(params, t))
    return changes | {state.player.line: status_html(line)}


def _with_local_model(
    job: Job, params: VideoParams, catalog: ModelCatalog, t: Texts
) -> tuple[VideoParams, list[str]]:
    """The settings of `job` with the checkpoint that made it, or would have, if it is on offer. The
    usual one of then may be another now."""
    made_by = job.last.video.model if isinstance(job.last, Succeeded) else params.model
    if made_by in catalog.names:
        return replace(params, model=None if made_by == catalog.default.name else made_by), []
    if params.model is None:
        return params, []
    usual = catalog.default.name
    return replace(params, model=None), [t("recipe_model_missing", other=made_by, model=usual)]
