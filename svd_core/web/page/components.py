"""Gradio components whose values reach the core unchanged.

None of them fetches an address that a visitor sent in place of a file, as stock ones do; every
input of the page is one of these.

`UNQUEUED_EVENT` and `event_value` belong to the events of these components.
"""

import base64
import binascii
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.data_classes import FileData, ImageData
from gradio.processing_utils import save_bytes_to_cache

from svd_core.media.image import MAX_BYTES

UNQUEUED_EVENT: dict[str, Any] = {
    "queue": False,
    "show_progress": "hidden",
    "api_visibility": "private",
}
"""For events that are the page's own business, and over at once."""


def event_value(event: gr.EventData, name: str) -> Any:
    """A value that a script sent along; None if it is not there, as in made-up requests."""
    return getattr(event, name, None)


async def files_only(self: Any, path: str | Path | None) -> str | None:
    """Keep an uploaded file, as stock does. Raises `gr.Error` for an address."""
    if path is not None and str(path).lower().startswith(("http:", "https:")):
        raise gr.Error(
            "This server fetches no addresses; send the photo itself, as a file or a data URI.",
            print_exception=False,
        )
    kept: str | None = await Block.async_move_resource_to_block_cache(self, path)
    return kept


class Photo(gr.Image):
    """Hands on the bytes of the file as uploaded, so that HEIC, 16 bit and EXIF reach the core."""

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
            # One byte more than allowed, so that the core sees that it is too much and says so.
            return file.read(MAX_BYTES + 1)

    def postprocess(self, value: Any) -> ImageData | None:
        """Shows a file where it lies, or bytes, for which it makes one."""
        if isinstance(value, bytes):
            value = save_bytes_to_cache(value, "photo.jpg", self.GRADIO_CACHE)
            self.temp_files.add(value)  # to be removed some day
        return None if value is None else ImageData(path=str(value), orig_name="photo.jpg")


class Slider(gr.Slider):
    """A slider whose range is checked by the core, so that page and API say the same sentence."""

    is_template = True
    async_move_resource_to_block_cache = files_only  # type: ignore[assignment]

    def preprocess(self, payload: Any) -> Any:
        return payload


class NumberField(gr.Textbox):
    """A field for a number that may be left empty; the core reads the text and checks the range.

    (Gradio's own number field turns an empty value into 0.)
    """

    is_template = True
    async_move_resource_to_block_cache = files_only  # type: ignore[assignment]

    def preprocess(self, payload: Any) -> Any:
        return None if payload == "" else payload

    def postprocess(self, value: Any) -> Any:
        return value

    def api_info(self) -> dict[str, Any]:
        return {"type": "number"}


class RadioChoice(gr.Radio):
    """One of a few words, checked by the core."""

    is_template = True
    async_move_resource_to_block_cache = files_only  # type: ignore[assignment]

    def preprocess(self, payload: Any) -> Any:
        return payload


class ModelChoice(gr.Radio):
    """One of some names, of which the first is what is taken where nothing is asked for."""

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
    is_template = True
    async_move_resource_to_block_cache = files_only  # type: ignore[assignment]


class Files(gr.File):
    """Hands on where uploads lie, which is in the folder that uploads go to."""

    is_template = True
    async_move_resource_to_block_cache = files_only  # type: ignore[assignment]


class BrowserState(gr.BrowserState):
    """What the browser keeps beyond a reload."""

    is_template = True
    async_move_resource_to_block_cache = files_only  # type: ignore[assignment]


class VideoPlayer(gr.Video):
    """A player of files that are known to be playable.

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
