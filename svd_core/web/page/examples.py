"""Examples: photos with the videos made from them, as a strip, and in kiosk mode for projectors.

Kiosk mode is a large player that goes through the examples.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path

import gradio as gr
from gradio.events import Dependency

from svd_core.errors import SvdError
from svd_core.media.image import open_photo
from svd_core.storage import ResultStore
from svd_core.web.page.components import UNQUEUED_EVENT, script
from svd_core.web.page.controls import Changes
from svd_core.web.page.formatting import status_html
from svd_core.web.page.gallery import file_url
from svd_core.web.page.i18n import client_text, texts_for
from svd_core.web.page.page_state import PageState
from svd_core.web.page.playback import example_playback, play_interpolated


@dataclass(frozen=True)
class Example:
    """Example photo and its video."""

    name: str
    photo: Path
    video: Path


def find_examples(folder: Path) -> list[Example]:
    """Every `<name>.jpg` of `folder` that has a `<name>.mp4`, sorted by name."""
    return [
        Example(photo.stem.replace("_", " ").replace("-", " ").capitalize(), photo, video)
        for photo in sorted(folder.glob("*.jpg"))
        if (video := photo.with_suffix(".mp4")).is_file()
    ]


def first_example(examples: Sequence[Example]) -> Example | None:
    """The example that the page opens with; None without examples.

    It is the first one in landscape, which fills photo and player, else the first one.
    """
    for example in examples:
        photo = open_photo(example.photo.read_bytes())
        if photo.width > photo.height:
            return example
    return examples[0] if examples else None


def example_strip(examples: Sequence[Example]) -> list[gr.Button]:
    """Tab with one button for each example."""
    with gr.Tab(client_text("examples"), id="examples"), gr.Row(elem_id="examples"):
        return [gr.Button(each.name, icon=str(each.photo), min_width=96) for each in examples]


def bind_examples(
    examples: Sequence[Example], buttons: Sequence[gr.Button], state: PageState, opened: Dependency
) -> None:
    """On a click show the photo with its finished video, first as it was made, then smoothly.

    `opened`: the event after which the player has the first example or a job of the visitor.
    """
    player = state.player

    play_interpolated(state, opened)
    for example, button in zip(examples, buttons, strict=True):

        def show(request: gr.Request, example: Example = example) -> Changes:
            line = status_html(texts_for(request)("example", name=example.name))
            return player.clear() | {
                state.photo: str(example.photo),
                player.line: line,
                player.playing: {"example": example.name},
                player.video: gr.update(value=str(example.video), visible=True),
            }

        play_interpolated(state, button.click(show, None, state.outputs, **UNQUEUED_EVENT))


def kiosk(examples: Sequence[Example], results: ResultStore) -> None:
    """Dialog that plays one example after the other.

    The files with in-between frames are made when it is opened; until then it plays the originals.
    """
    strip = "".join(
        f'<button type="button" {_data(each, each.video)}><img src="{file_url(each.photo)}" alt="" '
        f'loading="lazy">{escape(each.name)}</button>'
        for each in examples
    )
    leave = f'<button type="button" class="svd-leave">{client_text("demo_leave")}</button>'
    dialog = gr.HTML(
        f'<dialog aria-label="Stable Video Diffusion">{leave}'
        f'<video muted loop playsinline></video><div class="svd-strip">{strip}</div></dialog>',
        elem_id="demo",
        js_on_load=script("kiosk.js"),
    )
    files = gr.HTML("", elem_id="demo-files", visible="hidden")

    def on_opened() -> str:
        elements = []
        for each in examples:
            with suppress(SvdError):  # then the original goes on playing
                path, _ = example_playback(results, each.video, None)
                elements.append(f"<i {_data(each, path)}></i>")
        return "".join(elements)

    dialog.opened(on_opened, None, files, **UNQUEUED_EVENT)


def _data(example: Example, video: Path) -> str:
    return f'data-name="{escape(example.name)}" data-video="{file_url(video)}"'
