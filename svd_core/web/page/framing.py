"""Crop preview: a window over the photo that shows what the model will see.

The photo is decoded once and sent to the browser once. After that a change of framing costs
milliseconds and a few bytes of HTML, since only the window moves. The core's own framing gives its
place. Padded edges are not part of the photo, so with them the framed picture covers the photo.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from gradio.events import Dependency

from svd_core.errors import InvalidRequest, SvdError
from svd_core.media.image import CachedPhoto, FramedPhoto, Size
from svd_core.params import VideoParams
from svd_core.web.page.components import UNQUEUED_EVENT, Photo, event_value, script
from svd_core.web.page.controls import SKIP, Changes, Controls, Inputs
from svd_core.web.page.formatting import refused_html
from svd_core.web.page.i18n import Texts, texts_for

PREVIEW_SIDE = 960
"""Longer side of the photo in the browser, in pixels: twice that of its place for dense screens."""

PHOTO_TTL_S = 3600.0
"""Seconds for which a session's photo stays decoded after its last use."""

FRAMING_CONTROLS = ("orientation", "fit", "focus_x", "focus_y", "model")
"""Parameters that decide which part of the photo the model sees."""

WHOLE = 0.995
"""Share of a side from which the crop counts as the whole photo: the rest is rounding."""


@dataclass(frozen=True)
class Framing:
    """Components of the crop preview.

    `preview`: the photo, or its error. `window`: the part that the model will see. `cached_photo`:
    the decoded photo; None without a photo that can be used.
    """

    preview: gr.HTML
    window: gr.HTML
    cached_photo: gr.State

    @classmethod
    def build(cls) -> "Framing":
        preview = gr.HTML("", elem_id="photo-preview", js_on_load=script("photo.js"))
        window = gr.HTML("", elem_id="framing", js_on_load=script("crop.js"))
        return cls(preview, window, gr.State(None, time_to_live=PHOTO_TTL_S))

    @property
    def outputs(self) -> list[Any]:
        """Components that a new photo changes."""
        return [self.preview, self.window, self.cached_photo]

    def open_photo(self, image: bytes | None, t: Texts) -> Changes:
        """The changes for a new photo, or for none."""
        if image is None:
            return {self.cached_photo: None, self.preview: "", self.window: ""}
        try:
            cached_photo = CachedPhoto(image)
            source = data_uri(cached_photo.preview_image, PREVIEW_SIDE)
        except SvdError as error:
            return {self.cached_photo: None, self.preview: refused_html(error, t), self.window: ""}
        photo = f'<img alt="{escape(t("photo"))}" src="{source}">'
        shown = _fitted(photo, cached_photo.size)
        return {self.cached_photo: cached_photo, self.preview: shown, self.window: ""}

    def update(
        self,
        cached_photo: CachedPhoto,
        values: Mapping[str, object],
        sizes: Sequence[Size],
        t: Texts,
    ) -> Changes:
        """The changes for new framing parameters. `sizes`: those of the checkpoint."""
        try:
            params = VideoParams.from_mapping(values)
            framed = cached_photo.frame(sizes, params)
        except InvalidRequest as error:
            return {self.window: refused_html(error, t)}
        return {self.window: window_html(cached_photo.size, framed, params, t)}


def bind_framing(
    opened: Dependency,
    framing: Framing,
    photo: Photo,
    controls: Controls,
    sizes_for: Callable[[Inputs], Sequence[Size]],
) -> None:
    """Let the crop preview follow the photo and the controls, and the focus follow the window.

    `opened`: event after which the controls have the values of the link. `sizes_for`: the sizes
    that the chosen checkpoint was trained for; it raises `InvalidRequest`.
    """
    framing_controls = {controls[name] for name in FRAMING_CONTROLS}
    focus = [controls["focus_x"], controls["focus_y"]]
    components = {framing.cached_photo, *framing_controls}
    outputs = [*framing.outputs, *focus]

    def on_photo(image: bytes | None, request: gr.Request) -> Changes:
        return framing.open_photo(image, texts_for(request))

    def on_change(inputs: Inputs, request: gr.Request) -> Changes:
        cached_photo = inputs[framing.cached_photo]
        if cached_photo is None:
            return SKIP
        values = {name: inputs[controls[name]] for name in FRAMING_CONTROLS}
        try:
            sizes = sizes_for(inputs)
        except SvdError as error:
            return {framing.window: refused_html(error, texts_for(request))}
        return framing.update(cached_photo, values, sizes, texts_for(request))

    def on_move(event: gr.EventData) -> Changes:
        axis, moved = event_value(event, "axis"), event_value(event, "focus")
        if axis not in ("x", "y") or not isinstance(moved, int | float) or not 0 <= moved <= 1:
            return SKIP
        return {controls[f"focus_{axis}"]: round(moved, 3)}

    for event in (opened.then, photo.change):
        # Framed by the controls of that moment: they may change while a photo is decoded.
        decoded = event(on_photo, photo, framing.outputs, **UNQUEUED_EVENT)
        decoded.then(
            on_change, components, outputs, **UNQUEUED_EVENT | {"trigger_mode": "multiple"}
        )
    gr.on(
        [control.change for control in framing_controls],  # type: ignore[attr-defined]
        on_change,
        components,
        outputs,
        trigger_mode="always_last",
        **UNQUEUED_EVENT,
    )
    framing.window.moved(on_move, None, focus, **UNQUEUED_EVENT)
    # Another photo is framed afresh.
    photo.input(lambda: (0.5, 0.5), None, focus, **UNQUEUED_EVENT)


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
    whole = share > WHOLE
    kept = t("framing_whole") if whole else t("framing_kept", percent=round(100 * share))
    pixels = t("framing_caption", width=size[0], height=size[1])
    return f"<figcaption><span>{escape(pixels)} · </span>{escape(kept)}</figcaption>"


def _fitted(inside: str, size: Size, data: str = "") -> str:
    """Box with the aspect ratio of `size`, as large as its place allows, as Gradio shows photos."""
    return f'<div class="svd-fitted" style="--ratio:{size[0] / size[1]:.5f}" {data}>{inside}</div>'
