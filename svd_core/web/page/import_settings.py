"""Import settings from the recipe inside a video, or from the link that opened the page.

What this server does not have is reported.
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
from svd_core.params import CHOICES, LIMITS, VideoParams
from svd_core.web.page.components import UNQUEUED_EVENT, Files
from svd_core.web.page.controls import Changes
from svd_core.web.page.formatting import refused_html, status_html
from svd_core.web.page.i18n import Texts, client_text, texts_for
from svd_core.web.page.page_state import PageState

FIELDS = {*LIMITS, *CHOICES, "model"}


def link_message() -> gr.HTML:
    return gr.HTML("", elem_id="link-said", padding=False)


def bind_settings_link(page: gr.Blocks, state: PageState, said: gr.HTML) -> Dependency:
    """Returns the event, for what has to come after it when the page is opened."""

    def on_open(request: gr.Request) -> Changes:
        given: list[tuple[str, Any]] = list(request.query_params.multi_items())
        if not any(name in FIELDS for name, _ in given):
            return {said: ""}
        t = texts_for(request)
        try:
            params = VideoParams.from_query(urlencode(given))
            state.catalog.get(params.model)
        except InvalidRequest as error:
            return {said: refused_html(error, t)}
        line = " ".join([t("link_read"), *state.unavailable_notes(params, t)])
        told: Changes = {said: status_html(line)}
        told[state.random_seed] = all(name != "seed" for name, _ in given)
        return told | state.set_values(params, t)

    outputs = [said, state.random_seed, state.interpolation, *state.controls.values()]
    return page.load(on_open, None, outputs, **UNQUEUED_EVENT)


def query_string(params: VideoParams, with_seed: bool) -> str:
    query = params.to_query()
    return query if with_seed else "&".join(p for p in query.split("&") if p[:5] != "seed=")


KINDS = [".mp4", ".gif", ".webp", ".zip"]

COMMIT = re.compile("[0-9a-f]{40}")

MAX_JOBS = 30
"""Of this visitor's jobs are looked through for the photo."""


@dataclass(frozen=True)
class ImportPanel:
    video: Files
    message: gr.HTML

    @classmethod
    def build(cls) -> "ImportPanel":
        with gr.Tab(client_text("recipe"), elem_id="recipe", render_children=True):
            video = Files(
                label=client_text("recipe_file"),
                file_types=KINDS,
                height=150,
                elem_id="recipe-file",
            )
            return cls(video, gr.HTML("", elem_id="recipe-said"))


def bind_import(state: PageState, import_panel: ImportPanel) -> None:
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
        told = [t("recipe_read", model=recipe.model, seed=recipe.params.seed)]
        if photo is not None and recipe.matches(photo):
            told.append(t("recipe_photo_same"))
        elif (kept := _stored_photo(state, recipe.image_sha256, session)) is not None:
            changes[state.photo] = kept
            told.append(t("recipe_photo_found"))
        else:
            told.append(t("recipe_photo_missing"))
        told += missing + state.unavailable_notes(recipe.params, t)
        return changes | {import_panel.message: status_html(" ".join(told))}

    import_panel.video.change(
        on_drop,
        [import_panel.video, state.photo, state.session],
        [import_panel.message, *state.outputs],
        **UNQUEUED_EVENT,
    )  # fmt: skip


def _stored_photo(state: PageState, sha256: str, session: Any) -> bytes | None:
    """The photo of that hash, if one of this visitor's jobs still has it."""
    for job in state.backend.jobs(session)[:MAX_JOBS]:
        photo = state.backend.queue.photo(job.id)
        if photo is not None and hashlib.sha256(photo).hexdigest() == sha256:
            return photo
    return None


def _matching_model(
    catalog: ModelCatalog, recipe: Recipe, t: Texts
) -> tuple[str | None, list[str]]:
    """The checkpoint to choose, None for the usual one, and what is to be said if it is another."""
    if recipe.made_with(catalog.default):
        return None, []
    for checkpoint in catalog.checkpoints:
        if recipe.made_with(checkpoint) or _may_be(recipe, checkpoint):
            return checkpoint.name, []
    return None, [t("recipe_model_missing", other=recipe.model, model=catalog.default.name)]


def _may_be(recipe: Recipe, checkpoint: Checkpoint) -> bool:
    """Of a checkpoint on the hub the commit is not known before it has been loaded."""
    if checkpoint.folder is not None or COMMIT.fullmatch(checkpoint.revision):
        return False
    return checkpoint.source == recipe.source
