"""Import of settings from the recipe inside a video, or from the link that opened the page.

A checkpoint or a speed that this server does not have is reported and replaced.
"""

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import gradio as gr
from gradio.events import Dependency

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.checkpoints.table import Checkpoint
from svd_core.errors import InvalidRequest, SvdError
from svd_core.media.recipe import Recipe
from svd_core.params import PARAMETERS, VideoParams
from svd_core.web.page.components import UNQUEUED_EVENT, Files
from svd_core.web.page.controls import Changes
from svd_core.web.page.formatting import refused_html, status_html
from svd_core.web.page.i18n import Texts, client_text, texts_for
from svd_core.web.page.page_state import PageState

FIELDS = {*PARAMETERS}
"""Parameters that a link may set."""

VIDEO_SUFFIXES = [".mp4", ".gif", ".webp", ".zip"]

COMMIT = re.compile("[0-9a-f]{40}")

MAX_JOBS = 30
"""Number of the visitor's jobs that are searched for the photo."""


def link_message() -> gr.HTML:
    """Message about the link that opened the page."""
    return gr.HTML("", elem_id="link-said", padding=False)


def bind_settings_link(page: gr.Blocks, state: PageState, message: gr.HTML) -> Dependency:
    """Set the controls from the link when the page is opened. Returns the event after it."""

    def on_open(request: gr.Request) -> Changes:
        items: list[tuple[str, Any]] = list(request.query_params.multi_items())
        if not any(name in FIELDS for name, _ in items):
            return {message: ""}
        t = texts_for(request)
        try:
            params = VideoParams.from_query(urlencode(items))
            state.catalog.get(params.model)
        except InvalidRequest as error:
            return {message: refused_html(error, t)}
        line = " ".join([t("link_read"), *state.unavailable_notes(params, t)])
        changes: Changes = {message: status_html(line)}
        changes[state.random_seed] = all(name != "seed" for name, _ in items)
        return changes | state.set_values(params, t)

    outputs = [message, state.random_seed, state.interpolation, *state.controls.values()]
    return page.load(on_open, None, outputs, **UNQUEUED_EVENT)


def query_string(params: VideoParams, with_seed: bool) -> str:
    """Query string of a settings link."""
    query = params.to_query()
    return query if with_seed else "&".join(p for p in query.split("&") if p[:5] != "seed=")


@dataclass(frozen=True)
class ImportPanel:
    """Import panel: a field for a video or an export with a recipe."""

    video: Files
    message: gr.HTML

    @classmethod
    def build(cls) -> "ImportPanel":
        with gr.Tab(client_text("recipe"), elem_id="recipe", render_children=True):
            video = Files(
                label=client_text("recipe_file"),
                file_types=VIDEO_SUFFIXES,
                height=150,
                elem_id="recipe-file",
            )
            return cls(video, gr.HTML("", elem_id="recipe-said"))


def bind_import(state: PageState, import_panel: ImportPanel) -> None:
    """Set controls and photo from the recipe of an uploaded video."""

    def on_drop(
        path: str | None, photo: bytes | None, session: Any, request: gr.Request
    ) -> Changes:
        if path is None:
            return {import_panel.message: ""}
        t = texts_for(request)
        try:
            recipe = Recipe.read(Path(path))
        except SvdError as error:
            return {import_panel.message: refused_html(error, t)}
        model, missing = _matching_model(state.catalog, recipe, t)
        params = replace(recipe.params, model=model)
        changes = state.set_values(params, t) | {state.random_seed: False}
        messages = [t("recipe_read", model=recipe.model, seed=recipe.params.seed)]
        if photo is not None and recipe.matches(photo):
            messages.append(t("recipe_photo_same"))
        elif (stored := _stored_photo(state, recipe.image_sha256, session)) is not None:
            changes[state.photo] = stored
            messages.append(t("recipe_photo_found"))
        else:
            messages.append(t("recipe_photo_missing"))
        messages += missing + state.unavailable_notes(recipe.params, t)
        return changes | {import_panel.message: status_html(" ".join(messages))}

    import_panel.video.change(
        on_drop,
        [import_panel.video, state.photo, state.session],
        [import_panel.message, *state.outputs],
        **UNQUEUED_EVENT,
    )  # fmt: skip


def _stored_photo(state: PageState, sha256: str, session: Any) -> bytes | None:
    """The photo with that hash, if one of this visitor's jobs still has it."""
    for job in state.backend.jobs(session)[:MAX_JOBS]:
        photo = state.backend.queue.photo(job.id)
        if photo is not None and hashlib.sha256(photo).hexdigest() == sha256:
            return photo
    return None


def _matching_model(
    catalog: ModelCatalog, recipe: Recipe, t: Texts
) -> tuple[str | None, list[str]]:
    """Name of the checkpoint to choose, None for the default, and messages if it is another one."""
    if recipe.made_with(catalog.default):
        return None, []
    for checkpoint in catalog.checkpoints:
        if recipe.made_with(checkpoint) or _may_be(recipe, checkpoint):
            return checkpoint.name, []
    return None, [t("recipe_model_missing", other=recipe.model, model=catalog.default.name)]


def _may_be(recipe: Recipe, checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint on the hub may be that of the recipe, its commit still unknown.

    The commit is known only after the checkpoint has been loaded.
    """
    if checkpoint.folder is not None or COMMIT.fullmatch(checkpoint.revision):
        return False
    return checkpoint.source == recipe.source
