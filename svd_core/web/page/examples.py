"""Examples: photos with the videos made from them, as a strip, and in kiosk mode for projectors.

Kiosk mode is a large player that goes through the examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

import gradio as gr
from gradio.events import Dependency

from svd_core.errors import SvdError
from svd_core.media.image import open_photo
from svd_core.web.page.components import UNQUEUED_EVENT, script
from svd_core.web.page.controls import Changes
from svd_core.web.page.formatting import status_html
from svd_core.web.page.i18n import client_text, texts_for
from svd_core.web.page.page_state import PageState
from svd_core.web.page.playback import play_interpolated, playback_of_example


@dataclass(frozen=True)
class Example:
    """Example photo and its video."""

    name: str
    photo: Path
    video: Path


def find_examples(folder: Path) -> list[Example]:
    """Every `<name>.jpg` of `folder` that has its `<name>.mp4`, sorted by name."""
    return [
        Example(photo.stem.replace("_", " ").replace("-", " ").capitalize(), photo, video)
        for photo in sorted(folder.glob("*.jpg"))
        if (video := photo.with_suffix(".mp4")).is_file()
    ]


def first_example(examples: Sequence[Example]) -> Example | None:
    """The example that the page opens with; None without examples.

    It is the first one in landscape, which fills photo and player, else the first one.
    """
    landscape = (example for example in examples if _is_landscape(example.photo))
    return next(landscape, examples[0] if examples else None)


def _is_landscape(photo: Path) -> bool:
    image = open_photo(photo.read_bytes())
    return image.width > image.height


def example_strip(examples: Sequence[Example]) -> list[gr.Button]:
    """Tab with one button for each example."""
    with gr.Tab(client_text("examples"), id="examples"), gr.Row(elem_id="examples"):
        return [gr.Button(each.name, icon=str(each.photo), min_width=96) for each in examples]


def bind_examples(
    examples: Sequence[Example], buttons: Sequence[gr.Button], state: PageState, opened: Dependency
) -> None:
    """Show a photo with its finished video at a click, first as it was made and then smoothly.

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

        shown = button.click(show, None, [state.photo, *player.outputs], **UNQUEUED_EVENT)
        play_interpolated(state, shown)


def kiosk_button() -> None:
    """Button that opens kiosk mode; static/kiosk.js listens to it."""
    gr.Button(client_text("demo"), size="sm", elem_id="demo-switch", min_width=110, scale=0)


@dataclass(frozen=True)
class Kiosk:
    """Dialog that plays one example after the other.

    `files`: URLs of the examples with in-between frames, empty until the first opening.
    """

    stage: gr.HTML
    files: gr.HTML
    examples: Sequence[Example]

    @classmethod
    def build(cls, examples: Sequence[Example]) -> "Kiosk":
        strip = "".join(
            f'<button type="button" {_data(each, each.video)}><img src="{_url(each.photo)}" alt="" '
            f'loading="lazy">{escape(each.name)}</button>'
            for each in examples
        )
        leave = f'<button type="button" class="svd-leave">{client_text("demo_leave")}</button>'
        stage = gr.HTML(
            f'<dialog aria-label="Stable Video Diffusion">{leave}'
            f'<video muted loop playsinline></video><div class="svd-strip">{strip}</div></dialog>',
            elem_id="demo",
            js_on_load=script("kiosk.js"),
        )
        return cls(stage, gr.HTML("", elem_id="demo-files", visible="hidden"), examples)


def bind_kiosk(state: PageState, kiosk: Kiosk) -> None:
    """Make the files with in-between frames when kiosk mode is opened."""

    def on_opened() -> str:
        files = ((each, _playback_path(state, each)) for each in kiosk.examples)
        return "".join(f"<i {_data(each, path)}></i>" for each, path in files)

    kiosk.stage.opened(on_opened, None, kiosk.files, **UNQUEUED_EVENT)


def _playback_path(state: PageState, example: Example) -> Path:
    """The example's video with in-between frames, or as it is where these cannot be made."""
    try:
        return playback_of_example(state.backend.results, example.video, None).path
    except SvdError:
        return example.video


def _data(example: Example, video: Path) -> str:
    return f'data-name="{escape(example.name)}" data-video="{_url(video)}"'


def _url(path: object) -> str:
    return f"gradio_api/file={quote(str(path))}"
