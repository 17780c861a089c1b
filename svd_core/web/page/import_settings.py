"""Import of settings from the recipe inside a video, or from the link that opened the page.

A checkpoint or a speed that this server does not have is reported and replaced.
"""

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import gradio as gr
from gradio.events import Dependency

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.checkpoints.table import Checkpoint
from svd_core.errors import InvalidRequest, SvdError
from svd_core.media.export import SUFFIX
from svd_core.media.recipe import Recipe
from svd_core.params import PARAMETERS, VideoParams
from svd_core.web.page.components import UNQUEUED_EVENT, Files
from svd_core.web.page.controls import Changes
from svd_core.web.page.formatting import refused_html, status_html
from svd_core.web.page.i18n import Texts, client_text, texts_for
from svd_core.web.page.page_state import PageState

COMMIT = re.compile("[0-9a-f]{40}")

MAX_JOBS = 30
"""Number of the visitor's latest jobs that are searched for the photo."""


def bind_settings_link(page: gr.Blocks, state: PageState, message: gr.HTML) -> Dependency:
    """Set the controls from the link when the page is opened, and report it in `message`.

    Returns the event after which they are set.
    """

    def on_open(request: gr.Request) -> Changes:
        items: list[tuple[str, Any]] = list(request.query_params.multi_items())
        if not any(name in PARAMETERS for name, _ in items):
            return {message: ""}
        t = texts_for(request)
        try:
            params = VideoParams.from_query(urlencode(items))
            state.catalog.get(params.model)
        except InvalidRequest as error:
            return {message: refused_html(error, t)}
        line = " ".join([t("link_read"), *state.unavailable_notes(params, t)])
        has_seed = any(name == "seed" for name, _ in items)
        changes: Changes = {message: status_html(line), state.random_seed: not has_seed}
        return changes | state.set_values(params, t)

    outputs = [message, state.random_seed, state.interpolation, *state.controls.values()]
    return page.load(on_open, None, outputs, **UNQUEUED_EVENT)


def import_panel(state: PageState) -> None:
    """Panel that sets controls and photo from the recipe of an uploaded video or export."""
    with gr.Tab(client_text("recipe"), elem_id="recipe", render_children=True):
        video = Files(
            label=client_text("recipe_file"), file_types=[*SUFFIX.values()], height=150,
            elem_id="recipe-file",
        )  # fmt: skip
        message = gr.HTML("", elem_id="recipe-said")

    def on_drop(
        path: str | None, photo: bytes | None, session: Any, request: gr.Request
    ) -> Changes:
        if path is None:
            return {message: ""}
        t = texts_for(request)
        try:
            recipe = Recipe.read(Path(path))
        except SvdError as error:
            return {message: refused_html(error, t)}
        model, missing = _matching_model(state.catalog, recipe, t)
        changes = state.set_values(replace(recipe.params, model=model), t)
        changes[state.random_seed] = False
        if photo is not None and recipe.matches(photo):
            photo_key = "recipe_photo_same"
        elif (stored := _stored_photo(state, recipe.image_sha256, session)) is not None:
            changes[state.photo] = stored
            photo_key = "recipe_photo_found"
        else:
            photo_key = "recipe_photo_missing"
        loaded = t("recipe_read", model=recipe.model, seed=recipe.params.seed)
        notes = missing + state.unavailable_notes(recipe.params, t)
        return changes | {message: status_html(" ".join([loaded, t(photo_key), *notes]))}

    inputs, outputs = [video, state.photo, state.session], [message, *state.outputs]
    video.change(on_drop, inputs, outputs, **UNQUEUED_EVENT)


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
    """Whether a checkpoint on the hub may be that of the recipe.

    Its commit is unknown until the checkpoint has been loaded.
    """
    if checkpoint.folder is not None or COMMIT.fullmatch(checkpoint.revision):
        return False
    return checkpoint.source == recipe.source
