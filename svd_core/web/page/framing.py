"""Crop preview: a window over the photo that shows what the model will see, before anything runs.

The photo is decoded once and sent to the browser once. After that a change of framing costs
milliseconds and a few bytes of HTML, since only the window moves. Its place comes from the core's
own framing. Padded edges are no part of the photo, so there the framed picture covers it instead.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from svd_core.errors import InvalidRequest, SvdError
from svd_core.framer import Framer
from svd_core.image import Framed, Size
from svd_core.params import VideoParams
from svd_core.web.page.dials import Changes
from svd_core.web.page.scripts import script
from svd_core.web.page.texts import Texts
from svd_core.web.page.words import refused_html

PREVIEW_SIDE = 960
"""Longer side of the photo in the browser, in pixels: its place has half of that, and twice the
pixels on a dense screen."""

FRAMER_TTL_S = 3600.0
"""Seconds for which a session's photo stays decoded after its last use."""

WHOLE = 0.995
"""From this part of a side on, nothing is said to be cut off: the rest is rounding."""


@dataclass(frozen=True)
class Framing:
    """`preview`: the photo, or what is wrong with it. `window`: the part that the model will see.
    `framer`: the decoded photo; None while there is none that can be used."""

    preview: gr.HTML
    window: gr.HTML
    framer: gr.State

    @classmethod
    def build(cls) -> "Framing":
        preview = gr.HTML("", elem_id="photo-preview", js_on_load=script("photo.js"))
        window = gr.HTML("", elem_id="framing", js_on_load=script("crop.js"))
        return cls(preview, window, gr.State(None, time_to_live=FRAMER_TTL_S))

    @property
    def outputs(self) -> list[Any]:
        return [self.preview, self.window, self.framer]

    def opened(self, image: bytes | None, say: Texts) -> Changes:
        """The changes for a new photo, or for none."""
        if image is None:
            return {self.framer: None, self.preview: "", self.window: ""}
        try:
            framer = Framer(image)
            source = picture(framer.small, PREVIEW_SIDE)
        except SvdError as error:
            return {self.framer: None, self.preview: refused_html(error, say), self.window: ""}
        photo = f'<img alt="{escape(say("photo"))}" src="{source}">'
        return {self.framer: framer, self.preview: _fitted(photo, framer.size), self.window: ""}

    def framed(
        self, framer: Framer, values: Mapping[str, object], sizes: Sequence[Size], say: Texts
    ) -> Changes:
        """The changes for new framing parameters. `sizes`: what the checkpoint was trained for."""
        try:
            params = VideoParams.from_mapping(values)
            framed = framer.frame(sizes, params)
        except InvalidRequest as error:
            return {self.window: refused_html(error, say)}
        return {self.window: window_html(framer.size, framed, params, say)}


def window_html(photo: Size, framed: Framed, params: VideoParams, say: Texts) -> str:
    """The crop window, or the padded picture, with a caption. `photo`: its (width, height).

    A window that can be moved is a slider for keyboard and screen reader; see static/crop.js.
    """
    left, top, right, bottom = framed.box
    width, height = (right - left) / photo[0], (bottom - top) / photo[1]
    caption = _caption(framed.size, width * height, say)
    if framed.fit == "pad":
        alt, source = escape(say("framing_alt")), picture(framed.image, PREVIEW_SIDE)
        shown = _fitted(f'<img class="svd-framed" alt="{alt}" src="{source}">', framed.size)
        return f"<figure>{shown}{caption}</figure>"
    place = (
        f"left:{100 * left / photo[0]:.2f}%;top:{100 * top / photo[1]:.2f}%;"
        f"width:{100 * width:.2f}%;height:{100 * height:.2f}%"
    )
    if min(width, height) > WHOLE:
        window = f'<div class="svd-window" style="{place}"></div>'
        return f"<figure>{_fitted(window, photo)}{caption}</figure>"
    axis, room, focus = (
        ("x", 1 - width, params.focus_x) if width < height else ("y", 1 - height, params.focus_y)
    )
    name = escape(say("framing_move"))
    window = (
        f'<div class="svd-window" tabindex="0" role="slider" style="{place}" aria-label="{name}" '
        f'title="{name}" aria-orientation="{"horizontal" if axis == "x" else "vertical"}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{round(100 * focus)}">'
        "<i></i></div>"
    )
    data = f'data-axis="{axis}" data-room="{room:.4f}" data-focus="{focus}"'
    return f"<figure>{_fitted(window, photo, data)}{caption}</figure>"


def picture(image: Any, side: int) -> str:
    """A PIL image as a data URI of a JPEG, its longer side at most `side` pixels; about 100 kB."""
    image = image.copy()
    image.thumbnail((side, side))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _caption(size: Size, share: float, say: Texts) -> str:
    """The size of the video, and how much of the photo is in it."""
    whole = share > WHOLE
    kept = say("framing_whole") if whole else say("framing_kept", percent=round(100 * share))
    pixels = say("framing_caption", width=size[0], height=size[1])
    return f"<figcaption><span>{escape(pixels)} · </span>{escape(kept)}</figcaption>"


def _fitted(inside: str, size: Size, data: str = "") -> str:
    """A box of the proportions of `size`, as large as its place allows, as Gradio shows photos."""
    return f'<div class="svd-fitted" style="--ratio:{size[0] / size[1]:.5f}" {data}>{inside}</div>'
