"""Building blocks of the page: Gradio components, download button, scripts and event options.

Invariant: the components hand their values to the core unchanged, and none of them fetches an
address that a visitor sent in place of a file, as stock ones do. Every input of the page is one of
these.
"""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.data_classes import FileData, ImageData
from gradio.processing_utils import save_bytes_to_cache

from svd_core.media.image import MAX_BYTES
from svd_core.temp_folder import export_path, remove_copies
from svd_core.web.page.number_input import plain_number

STATIC = Path(__file__).parent / "static"
"""Style sheet and JavaScript of the page."""

UNQUEUED_EVENT: dict[str, Any] = {
    "queue": False,
    "show_progress": "hidden",
    "api_visibility": "private",
}
"""Options of an event that is short and for the page alone."""


def script(name: str) -> str:
    """JavaScript of a file in `static/`.

    `gr.HTML(js_on_load=...)` gives it `element`, `trigger` and `watch`. A file that is one arrow
    function is for the `js=...` of an event.
    """
    return (STATIC / name).read_text(encoding="utf-8")


def event_value(event: gr.EventData, name: str) -> Any:
    """A value that a script sent with its event; None if it is missing, as in forged requests."""
    return getattr(event, name, None)


async def files_only(self: Any, path: str | Path | None) -> str | None:
    """Move an uploaded file to the cache, as stock does. Raises `gr.Error` for an address."""
    if path is not None and str(path).lower().startswith(("http:", "https:")):
        raise gr.Error(
            "This server fetches no addresses; send the photo itself, as a file or a data URI.",
            print_exception=False,
        )
    cached: str | None = await Block.async_move_resource_to_block_cache(self, path)
    return cached


class Photo(gr.Image):
    """Image field whose value is the uploaded file: HEIC, 16 bit and EXIF reach the core."""

    is_template = True
    async_move_resource_to_block_cache = files_only  # type: ignore[assignment]

    def preprocess(self, payload: ImageData | None) -> bytes | None:  # type: ignore[override]
        if payload is None:
            return None
        if payload.url and payload.url.startswith("data:"):
            return _decode_data_uri(payload.url)
        if payload.path is None:
            return None
        with Path(payload.path).open("rb") as file:
            # One byte more than allowed, so that the core sees the excess and words the error.
            return file.read(MAX_BYTES + 1)

    def postprocess(self, value: Any) -> ImageData | None:
        """Show a file from where it lies, or bytes, for which a file is made."""
        if isinstance(value, bytes):
            value = save_bytes_to_cache(value, "photo.jpg", self.GRADIO_CACHE)
            self.temp_files.add(value)  # `delete_cache` removes it
        return None if value is None else ImageData(path=str(value), orig_name="photo.jpg")


class Slider(gr.Slider):
    """Slider whose range the core checks, so that page and API give the same error."""

    is_template = True
    async_move_resource_to_block_cache = files_only  # type: ignore[assignment]

    def preprocess(self, payload: Any) -> Any:
        return payload


class NumberField(gr.Textbox):
    """Field for a number that may be left empty; the core reads the text and checks the range.

    Its id is the name of the parameter. Gradio's own number field turns an empty value into 0.
    """

    is_template = True
    async_move_resource_to_block_cache = files_only  # type: ignore[assignment]

    def preprocess(self, payload: Any) -> Any:
        if isinstance(payload, str):
            return plain_number(payload, str(self.elem_id)) if payload.strip() else None
        return payload

    def postprocess(self, value: Any) -> Any:
        return value

    def api_info(self) -> dict[str, Any]:
        return {"type": "number"}


class RadioChoice(gr.Radio):
    """Choice of one word among a few, checked by the core."""

    is_template = True
    async_move_resource_to_block_cache = files_only  # type: ignore[assignment]

    def preprocess(self, payload: Any) -> Any:
        return payload


class ModelChoice(gr.Radio):
    """Choice of a checkpoint by name; the first one is the default and becomes None."""

    is_template = True
    async_move_resource_to_block_cache = files_only  # type: ignore[assignment]

    def preprocess(self, payload: Any) -> Any:
        return None if payload == self._first else payload

    def postprocess(self, value: Any) -> Any:
        return self._first if value is None else value

    def api_info(self) -> dict[str, Any]:
        names = [value for _, value in self.choices]
        return {"type": "string"} | ({"enum": names} if names else {})

    @property
    def _first(self) -> Any:
        return self.choices[0][1] if self.choices else None


class Checkbox(gr.Checkbox):
    """Checkbox that takes no address for a file."""

    is_template = True
    async_move_resource_to_block_cache = files_only  # type: ignore[assignment]


class Files(gr.File):
    """File field whose value is the path of the upload, inside the upload folder."""

    is_template = True
    async_move_resource_to_block_cache = files_only  # type: ignore[assignment]


class BrowserState(gr.BrowserState):
    """Value that the browser keeps across reloads."""

    is_template = True
    async_move_resource_to_block_cache = files_only  # type: ignore[assignment]


class VideoPlayer(gr.Video):
    """Video player for files that are known to be playable.

    Stock probes each file where an `ffmpeg` is on PATH, and fails if no `ffprobe` is beside it.
    """

    is_template = True

    def postprocess(self, value: str | Path | None) -> FileData | None:
        return None if value is None else FileData(path=str(value))


def _decode_data_uri(url: str) -> bytes:
    try:
        return base64.b64decode(url.partition(",")[2], validate=True)
    except binascii.Error:
        raise gr.Error(
            "The photo is no valid base64 after the comma; please encode the file again.",
            print_exception=False,
        ) from None


@dataclass(frozen=True)
class DownloadButton:
    """Download button whose file is made at the click.

    `file` is hidden; the script clicks it as soon as it has a file.
    """

    button: gr.Button
    file: gr.DownloadButton

    @classmethod
    def build(cls, label: Any, elem_id: str, **options: Any) -> "DownloadButton":
        button = gr.Button(label, elem_id=elem_id, **options)
        return cls(button, gr.DownloadButton("", visible="hidden", elem_id=f"{elem_id}-file"))

    def bind(self, make: Callable[..., Any], inputs: Any, *outputs: Block) -> None:
        """Call `make` at a click. If its changes include `file`, the download begins."""
        made = self.button.click(make, inputs, [self.file, *outputs], **UNQUEUED_EVENT)
        click_file = script("download.js").replace("ELEM_ID", f"{self.button.elem_id}-file")
        made.success(None, js=click_file, api_visibility="private")

    def path_for(self, name: str, key: str) -> Path:
        """Path for a file of that name in the temporary folder, replacing an earlier one.

        `key`: a job's id or another secret.
        """
        path = export_path(Path(self.file.GRADIO_CACHE), key, name)
        self.file.temp_files.add(str(path))
        return path

    def discard(self, *keys: str) -> None:
        """Remove all files made for these keys, and the copies that Gradio made of them."""
        remove_copies(Path(self.file.GRADIO_CACHE), *keys)
