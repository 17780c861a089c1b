"""Building blocks of the page: Gradio components, download button, scripts and event options.

Invariant: the components hand their values to the core unchanged, and none of them downloads from a
URL that a visitor sent in place of a file, as stock ones do. Every input of the page is one of
these.
"""

import base64
import binascii
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.data_classes import FileData, ImageData
from gradio.processing_utils import save_bytes_to_cache

from svd_core.media.image import MAX_BYTES
from svd_core.params import PARAMETERS
from svd_core.temp_folder import export_path, remove_copies

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

    `gr.HTML(js_on_load=...)` gives it `element`, `trigger` and `watch`. Values of its events may be
    missing, because requests can be forged. A file that is one arrow function is for the `js=...`
    of an event.
    """
    return (STATIC / name).read_text(encoding="utf-8")


def read_photo(path: str | Path) -> bytes:
    """The bytes of an uploaded photo, at most one more than allowed: the core then refuses it."""
    with Path(path).open("rb") as file:
        return file.read(MAX_BYTES + 1)


class FilesOnly(Block):
    """Base class of components that accept uploaded files but no URLs."""

    is_template = True

    async def async_move_resource_to_block_cache(self, path: str | Path | None) -> str | None:
        """Move an uploaded file to the cache, as stock does. Raises `gr.Error` for a URL."""
        if path is not None and str(path).lower().startswith(("http:", "https:")):
            raise gr.Error(
                "This server fetches no addresses. Send the photo itself, as a file or a data URI.",
                print_exception=False,
            )
        cached: str | None = await super().async_move_resource_to_block_cache(path)
        return cached


class Photo(gr.Image, FilesOnly):
    """Image field whose value is the uploaded file: HEIC, 16 bit and EXIF reach the core."""

    def preprocess(self, payload: ImageData | None) -> bytes | None:  # type: ignore[override]
        if payload is None:
            return None
        if payload.url and payload.url.startswith("data:"):
            try:
                return base64.b64decode(payload.url.partition(",")[2], validate=True)
            except binascii.Error:
                raise gr.Error(
                    "The data URI of the photo is not valid base64. Encode the file again.",
                    print_exception=False,
                ) from None
        return None if payload.path is None else read_photo(payload.path)

    def postprocess(self, value: Any) -> ImageData | None:
        """Show a file where it is, or bytes, which are written to a file."""
        if isinstance(value, bytes):
            value = save_bytes_to_cache(value, "photo.jpg", self.GRADIO_CACHE)
            self.temp_files.add(value)  # `delete_cache` removes it
        return None if value is None else ImageData(path=str(value), orig_name="photo.jpg")


class Slider(gr.Slider, FilesOnly):
    """Slider whose range the core checks, so that page and API give the same error."""

    def preprocess(self, payload: Any) -> Any:
        return payload


class NumberField(gr.Textbox, FilesOnly):
    """Field for a number that may be left empty; the core reads the text and checks the range.

    Its id is the name of the parameter. Gradio's own number field turns an empty value into 0.
    """

    def preprocess(self, payload: Any) -> Any:
        if isinstance(payload, str):
            return plain_number(payload, str(self.elem_id)) if payload.strip() else None
        return payload

    def postprocess(self, value: Any) -> Any:
        return value

    def api_info(self) -> dict[str, Any]:
        return {"type": "number"}


class RadioChoice(gr.Radio, FilesOnly):
    """Choice of one word among a few, checked by the core."""

    def preprocess(self, payload: Any) -> Any:
        return payload


class ModelChoice(gr.Radio, FilesOnly):
    """Choice of a checkpoint by name; the first one is the default and becomes None."""

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


class Checkbox(gr.Checkbox, FilesOnly):
    pass


class Files(gr.File, FilesOnly):
    """File field whose value is the path of the upload, inside the upload folder."""


class BrowserState(gr.BrowserState, FilesOnly):
    """Value that the browser keeps across reloads."""


class VideoPlayer(gr.Video, FilesOnly):
    """Video player for files that are known to be playable.

    Stock probes each file if `ffmpeg` is on PATH, and fails if `ffprobe` is missing.
    """

    def postprocess(self, value: str | Path | None) -> FileData | None:
        return None if value is None else FileData(path=str(value))


@dataclass(frozen=True)
class DownloadButton:
    """Download button whose file is made when it is clicked.

    `file` is hidden; a script clicks it once it has the file.
    """

    button: gr.Button
    file: gr.DownloadButton

    @classmethod
    def build(cls, label: Any, elem_id: str, **options: Any) -> "DownloadButton":
        button = gr.Button(label, elem_id=elem_id, **options)
        return cls(button, gr.DownloadButton("", visible="hidden", elem_id=f"{elem_id}-file"))

    def bind(self, make: Callable[..., Any], inputs: Any, *outputs: Block) -> None:
        """Call `make` on a click. If its changes include `file`, the download begins."""
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


MAX_LENGTH = 40
"""Characters of the longest text that is read as a number."""

SIGNS = str.maketrans("\u066b\u066c\u2019\u02bc\u2212\u3002\u3001", ".'''-.,")
"""Arabic separators, apostrophes between groups, the minus sign, and the marks that Chinese and
Japanese keyboards write for point and comma."""

STYLES = (("[,]", "[.]"), ("[.]", "[,]"), ("[' ]", "[.,]"))
"""Patterns of the group separator and of the decimal sign that goes with it."""


def plain_number(text: str, name: str) -> str:
    """Number as visitors type it, with a point and without groups, for the core to read.

    Text in no known style is returned unchanged. Decimal commas, grouped digits and digits of other
    scripts are known. In fields for whole numbers, three digits after a single separator are a
    group; elsewhere a single separator is the decimal sign. `name`: the parameter of the field.
    """
    # NFKC turns all spaces and wide characters into plain ones. Text that is copied from web pages
    # may contain invisible marks of direction or width.
    normal = unicodedata.normalize("NFKC", text[: MAX_LENGTH + 1]).translate(SIGNS)
    normal = "".join(mark for mark in normal if unicodedata.category(mark) != "Cf").strip()
    normal = re.sub(r"\d", lambda digit: str(unicodedata.decimal(digit[0])), normal)
    sign = normal[:1] if normal[:1] in ("+", "-") else ""
    digits = normal.removeprefix(sign)
    whole = name in PARAMETERS and PARAMETERS[name].integer
    for group, point in STYLES:
        is_single = re.fullmatch(rf"\d+{group}\d+", digits) and "'" not in group
        if (whole or not is_single) and _is_grouped(digits, group, point):
            return sign + re.sub(group, "", digits).replace(",", ".")
    if len(normal) <= MAX_LENGTH and re.fullmatch(r"\d+([.,]\d*)?|[.,]\d+", digits):
        return sign + digits.replace(",", ".")
    return text


def _is_grouped(digits: str, group: str, point: str) -> bool:
    """Whether the digits are in groups of three. In Indian style all but the last have two."""
    integer = rf"[1-9]\d{{0,2}}({group}\d{{2,3}})*{group}\d{{3}}"
    return re.fullmatch(rf"{integer}({point}\d+)?", digits) is not None
