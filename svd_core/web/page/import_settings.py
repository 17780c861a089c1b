"""Back from a video to its settings: what is in its recipe, and what is missing here."""

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from svd_core.checkpoints.catalog import Offer
from svd_core.checkpoints.table import Checkpoint
from svd_core.errors import SvdError
from svd_core.media.recipe import Recipe
from svd_core.web.page.components import Files
from svd_core.web.page.controls import Changes
from svd_core.web.page.formatting import refused_html, status_html
from svd_core.web.page.i18n import Texts, fixed, texts_for
from svd_core.web.page.page_events import QUICK
from svd_core.web.page.page_state import Studio

KINDS = [".mp4", ".gif", ".webp", ".zip"]

COMMIT = re.compile("[0-9a-f]{40}")

NEWEST = 30
"""Of this visitor's jobs are looked through for the photo."""


@dataclass(frozen=True)
class Dropped:
    video: Files
    said: gr.HTML

    @classmethod
    def build(cls) -> "Dropped":
        with gr.Tab(fixed("recipe"), elem_id="recipe", render_children=True):
            video = Files(
                label=fixed("recipe_file"), file_types=KINDS, height=150, elem_id="recipe-file"
            )
            return cls(video, gr.HTML("", elem_id="recipe-said"))


def wire_dropped(studio: Studio, dropped: Dropped) -> None:
    def on_drop(path: str | None, photo: bytes | None, card: Any, request: gr.Request) -> Changes:
        if path is None:
            return {dropped.said: ""}
        say = texts_for(request)
        try:
            recipe = Recipe.read(Path(path))
        except SvdError as error:
            return {dropped.said: refused_html(error, say)}
        model, missing = _model(studio.offer, recipe, say)
        params = replace(recipe.params, model=model)
        changes = studio.shown(params, say) | {studio.random: False}
        told = [say("recipe_read", model=recipe.model, seed=recipe.params.seed)]
        if photo is not None and recipe.matches(photo):
            told.append(say("recipe_photo_same"))
        elif (kept := _kept(studio, recipe.image_sha256, card)) is not None:
            changes[studio.photo] = kept
            told.append(say("recipe_photo_found"))
        else:
            told.append(say("recipe_photo_missing"))
        told += missing + studio.lacking(recipe.params, say)
        return changes | {dropped.said: status_html(" ".join(told))}

    dropped.video.change(
        on_drop, [dropped.video, studio.photo, studio.visitor], [dropped.said, *studio.outputs],
        **QUICK,
    )  # fmt: skip


def _kept(studio: Studio, sha256: str, card: Any) -> bytes | None:
    """The photo of that hash, if one of this visitor's jobs still has it."""
    for job in studio.backend.jobs(card)[:NEWEST]:
        photo = studio.backend.queue.photo(job.id)
        if photo is not None and hashlib.sha256(photo).hexdigest() == sha256:
            return photo
    return None


def _model(offer: Offer, recipe: Recipe, say: Texts) -> tuple[str | None, list[str]]:
    """The checkpoint to choose, None for the usual one, and what is to be said if it is another."""
    if recipe.made_with(offer.usual):
        return None, []
    for checkpoint in offer.checkpoints:
        if recipe.made_with(checkpoint) or _may_be(recipe, checkpoint):
            return checkpoint.name, []
    return None, [say("recipe_model_missing", other=recipe.model, model=offer.usual.name)]


def _may_be(recipe: Recipe, checkpoint: Checkpoint) -> bool:
    """Of a checkpoint on the hub the commit is not known before it has been loaded."""
    if checkpoint.folder is not None or COMMIT.fullmatch(checkpoint.revision):
        return False
    return checkpoint.source == recipe.source
