"""Example photos with the videos made from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from gradio.events import Dependency

from svd_core.media.image import open_photo
from svd_core.web.page.components import UNQUEUED_EVENT
from svd_core.web.page.controls import Changes
from svd_core.web.page.formatting import status_html
from svd_core.web.page.i18n import client_text, texts_for
from svd_core.web.page.job_watch import play_interpolated
from svd_core.web.page.page_state import PageState


@dataclass(frozen=True)
class Example:
    name: str
    photo: Path
    video: Path


def find_examples(folder: Path) -> list[Example]:
    """Every `<name>.jpg` of `folder` that has its `<name>.mp4`, by name."""
    return [
        Example(photo.stem.replace("_", " ").replace("-", " ").capitalize(), photo, video)
        for photo in sorted(folder.glob("*.jpg"))
        if (video := photo.with_suffix(".mp4")).is_file()
    ]


def first_example(found: Sequence[Example]) -> Example | None:
    """The example that the page opens with: the first in landscape, which fills photo and player;
    else the first one; None without examples."""
    landscape = (example for example in found if _is_landscape(example.photo))
    return next(landscape, found[0] if found else None)


def _is_landscape(photo: Path) -> bool:
    image = open_photo(photo.read_bytes())
    return image.width > image.height


def example_strip(found: Sequence[Example]) -> list[gr.Button]:
    with gr.Tab(client_text("examples"), id="examples"), gr.Row(elem_id="examples"):
        return [gr.Button(each.name, icon=str(each.photo), min_width=96) for each in found]


def bind_examples(
    found: Sequence[Example], buttons: Sequence[gr.Button], state: PageState, opened: Dependency
) -> None:
    """A click shows a photo with its finished video, first as it was made and then smoothly.

    `opened`: the page is, with the first example in the player or with a job of the visitor.
    """
    player = state.player

    play_interpolated(state, opened)
    for example, button in zip(found, buttons, strict=True):

        def show(request: gr.Request, example: Example = example) -> Changes:
            line = status_html(texts_for(request)("example", name=example.name))
            return player.clear() | {
                state.photo: str(example.photo),
                player.line: line,
                player.playing: {"example": example.name},
                player.video: gr.update(value=str(example.video), visible=True),
            }

        shown = button.click(show, None, [state.photo, *player.outputs], **UNQUEUED_EVENT)
        play_interpolated(state, shown)
