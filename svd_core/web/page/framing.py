"""Crop preview: a window over the photo that shows what the model will see.

The photo is decoded once and sent to the browser once. After that a change of framing costs
milliseconds and a few bytes of HTML, since only the window moves. Its place comes from the core's
framing. Padded edges are not part of the photo, so the framed picture then covers the photo.
"""

import base64
import io
from html import escape
from typing import Any

import gradio as gr
from gradio.events import Dependency

from svd_core.errors import SvdError
from svd_core.media.image import CachedPhoto, FramedPhoto, Size
from svd_core.params import VideoParams
from svd_core.web.page.components import UNQUEUED_EVENT, script
from svd_core.web.page.controls import SKIP, Changes, Inputs
from svd_core.web.page.formatting import refused_html
from svd_core.web.page.i18n import Texts, texts_for
from svd_core.web.page.page_state import PageState

PREVIEW_SIDE = 960
"""Longer side in pixels of the photo in the browser: twice its size on the page, for dense
screens."""

FRAMING_CONTROLS = ("orientation", "fit", "focus_x", "focus_y", "model")
"""Parameters that decide which part of the photo the model sees."""

WHOLE = 0.995
"""Share of a side from which the crop counts as the whole photo: the rest is rounding."""


def framing_preview() -> tuple[gr.HTML, gr.HTML]:
    """The photo, or its error, and over it the window with the part that the model will see."""
    photo = gr.HTML("", elem_id="photo-preview", js_on_load=script("photo.js"))
    return photo, gr.HTML("", elem_id="framing", js_on_load=script("crop.js"))


def bind_framing(state: PageState, preview: gr.HTML, window: gr.HTML, opened: Dependency) -> None:
    """Let the crop preview follow the photo and the controls, and the focus follow the window.

    `opened`: event after which the controls have the values of the link.
    """
    controls: list[Any] = [state.controls[name] for name in FRAMING_CONTROLS]
    focus = [state.controls["focus_x"], state.controls["focus_y"]]

    def on_photo(image: bytes | None, request: gr.Request) -> Changes:
        t = texts_for(request)
        changes: Changes = {state.cached_photo: None, preview: "", window: ""}
        if image is None:
            return changes
        try:
            cached_photo = CachedPhoto(image)
            source = data_uri(cached_photo.preview_image, PREVIEW_SIDE)
        except SvdError as error:
            return changes | {preview: refused_html(error, t)}
        photo = f'<img alt="{escape(t("photo"))}" src="{source}">'
        shown = _fitted(photo, cached_photo.size)
        return changes | {state.cached_photo: cached_photo, preview: shown}

    def on_change(inputs: Inputs, request: gr.Request) -> Changes:
        cached_photo, t = inputs[state.cached_photo], texts_for(request)
        if cached_photo is None:
            return SKIP
        try:
            params, framed = frame_photo(state, inputs)
        except SvdError as error:
            return {window: refused_html(error, t)}
        return {window: window_html(cached_photo.size, framed, params, t)}

    def on_move(event: gr.EventData) -> Changes:
        axis, moved = getattr(event, "axis", None), getattr(event, "focus", None)
        if axis not in ("x", "y") or not isinstance(moved, int | float) or not 0 <= moved <= 1:
            return SKIP
        return {state.controls[f"focus_{axis}"]: round(moved, 3)}

    inputs, outputs = {state.cached_photo, *controls}, [state.cached_photo, preview, window]
    after_photo = UNQUEUED_EVENT | {"trigger_mode": "multiple"}
    for event in (opened.then, state.photo.change):
        # Framed by the controls of that moment: they may change while a photo is decoded.
        decoded = event(on_photo, state.photo, outputs, **UNQUEUED_EVENT)
        decoded.then(on_change, inputs, [window], **after_photo)
    changes = [control.change for control in controls]
    gr.on(changes, on_change, inputs, [window], trigger_mode="always_last", **UNQUEUED_EVENT)
    window.moved(on_move, None, focus, **UNQUEUED_EVENT)
    # The crop of another photo begins in the middle.
    state.photo.input(lambda: (0.5, 0.5), None, focus, **UNQUEUED_EVENT)


def frame_photo(state: PageState, inputs: Inputs) -> tuple[VideoParams, FramedPhoto]:
    """The decoded photo as the model will see it, with its settings. Raises `SvdError`."""
    values = {name: inputs[state.controls[name]] for name in FRAMING_CONTROLS}
    params = VideoParams.from_mapping(values)
    sizes = state.catalog.get(params.model).sizes
    return params, inputs[state.cached_photo].frame(sizes, params)


def window_html(photo: Size, framed: FramedPhoto, params: VideoParams, t: Texts) -> str:
    """Crop window, or padded picture, with a caption. `photo`: its size.

    A movable window is a slider for keyboard and screen reader; see static/crop.js.
    """
    left, top, right, bottom = framed.box
    width, height = (right - left) / photo[0], (bottom - top) / photo[1]
    caption = _caption(framed.size, width * height, t)
    if framed.fit == "pad":
        alt, source = escape(t("framing_alt")), data_uri(framed.image, PREVIEW_SIDE)
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
    name = escape(t("framing_move"))
    window = (
        f'<div class="svd-window" tabindex="0" role="slider" style="{place}" aria-label="{name}" '
        f'title="{name}" aria-orientation="{"horizontal" if axis == "x" else "vertical"}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{round(100 * focus)}">'
        "<i></i></div>"
    )
    data = f'data-axis="{axis}" data-room="{room:.4f}" data-focus="{focus}"'
    return f"<figure>{_fitted(window, photo, data)}{caption}</figure>"


def data_uri(image: Any, side: int) -> str:
    """Data URI of a PIL image as JPEG, its longer side at most `side` pixels; about 100 kB."""
    image = image.copy()
    image.thumbnail((side, side))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _caption(size: Size, share: float, t: Texts) -> str:
    """The size of the video, and how much of the photo is in it."""
    percent = round(100 * share)
    kept = t("framing_whole") if share > WHOLE else t("framing_kept", percent=percent)
    pixels = t("framing_caption", width=size[0], height=size[1])
    return f"<figcaption><span>{escape(pixels)} · </span>{escape(kept)}</figcaption>"


def _fitted(inside: str, size: Size, data: str = "") -> str:
    """Box with the aspect ratio of `size`, as large as its place allows, as Gradio shows photos."""
    return f'<div class="svd-fitted" style="--ratio:{size[0] / size[1]:.5f}" {data}>{inside}</div>'
