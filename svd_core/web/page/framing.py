"""What the model will see of the photo, shown before anything is made of it.

The photo is read once; after that a turn of a dial costs milliseconds. The picture comes from the
core's own framing.
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
from svd_core.image import Framed, Size, crop_box
from svd_core.params import VideoParams
from svd_core.web.page.dials import Changes, Dials
from svd_core.web.page.texts import Texts, fixed
from svd_core.web.page.words import refused_html

SIDE = 600
"""Longer side of the preview in pixels: as wide as its place, on screens of two pixels a point."""

WHOLE_SIDE = 400
"""Of the whole photo, which is seen only while it is dragged."""

FORGET_S = 3600.0
"""How long a photo is kept at hand that nobody turns any more."""

DRAG = """
let from = null;
const figure = () => element.querySelector("figure[data-focus]");
const clamp = (v) => Math.min(1, Math.max(0, v));
const at = (event) => {
    const box = from.figure.querySelector("img").getBoundingClientRect();
    const [x, y] = from.focus, [w, h] = from.over;
    return [
        w ? clamp(x - (event.clientX - from.x) / (box.width * w)) : x,
        h ? clamp(y - (event.clientY - from.y) / (box.height * h)) : y,
    ];
};
element.addEventListener("pointerdown", (event) => {
    const found = figure();
    if (!found || !event.target.closest("figure")) return;
    const numbers = (name) => found.dataset[name].split(",").map(Number);
    from = { figure: found, x: event.clientX, y: event.clientY,
             focus: numbers("focus"), over: numbers("over") };
    found.setPointerCapture(event.pointerId);
    event.preventDefault();
});
element.addEventListener("pointermove", (event) => {
    if (!from) return;
    const [x, y] = at(event);
    from.figure.classList.add("svd-dragged");
    from.figure.querySelector(".svd-whole").style.objectPosition = `${x * 100}% ${y * 100}%`;
});
element.addEventListener("pointerup", (event) => {
    if (!from) return;
    const [x, y] = at(event);
    from = null;
    trigger("dragged", { x, y });
});
"""


@dataclass(frozen=True)
class Framing:
    """`framer` holds None while there is no photo that can be used."""

    figure: gr.HTML
    framer: gr.State

    @classmethod
    def build(cls) -> "Framing":
        figure = gr.HTML(fixed("framing_empty"), elem_id="framing", js_on_load=DRAG)
        return cls(figure, gr.State(None, time_to_live=FORGET_S))

    def opened(self, image: bytes | None, say: Texts) -> Changes:
        """A photo has come, or gone."""
        if image is None:
            return {self.framer: None, self.figure: str(fixed("framing_empty"))}
        try:
            return {self.framer: Framer(image)}
        except SvdError as error:
            return {self.framer: None, self.figure: refused_html(error, say)}

    def framed(
        self, framer: Framer, values: Mapping[str, object], sizes: Sequence[Size], dials: Dials,
        say: Texts,
    ) -> Changes:  # fmt: skip
        """The picture that the model will see, and only those dials that would change it."""
        try:
            params = VideoParams.from_mapping(values)
            framed = framer.frame(sizes, params)
        except InvalidRequest as error:
            return {self.figure: refused_html(error, say)}
        wide, high = _over(framer.size, framed)
        return {
            self.figure: figure_html(framer, framed, params, say),
            dials["focus_x"]: gr.update(visible=wide > 0),
            dials["focus_y"]: gr.update(visible=high > 0),
        }


def focus_at(photo: Size, size: Size, point: Sequence[float]) -> tuple[float, float]:
    """The focus that brings `point`, in pixels of the whole photo, to the middle of the crop."""
    left, top, right, bottom = crop_box(photo, size, 0, 0)
    x, y = (
        min(max((at - shown / 2) / (whole - shown), 0.0), 1.0) if whole - shown >= 1 else 0.5
        for at, shown, whole in zip(point, (right - left, bottom - top), photo, strict=True)
    )
    return round(x, 2), round(y, 2)


def figure_html(framer: Framer, framed: Framed, params: VideoParams, say: Texts) -> str:
    """The whole photo lies behind, to be seen while it is dragged."""
    wide, high = _over(framer.size, framed)
    width, height = framed.size
    share = 1 / (1 + wide) / (1 + high)
    told = [say("framing_caption", width=width, height=height)]
    told.append(
        say("framing_whole") if share > 0.995 else say("framing_kept", percent=round(100 * share))
    )
    movable = whole = ""
    if wide or high:
        told.append(say("framing_move"))
        focus = f"{params.focus_x},{params.focus_y}"
        movable = f' data-focus="{focus}" data-over="{wide:.4f},{high:.4f}"'
        whole = f'<img class="svd-whole" alt="" src="{picture(framer.small, WHOLE_SIDE)}">'
    image = f'alt="{escape(say("framing_alt"))}" src="{picture(framed.image, SIDE)}"'
    return (
        f'<figure{movable}><div style="aspect-ratio:{width}/{height}">'
        f'<img class="svd-framed" draggable="false" {image}>{whole}</div>'
        f"<figcaption>{escape(' · '.join(told))}</figcaption></figure>"
    )


def picture(image: Any, side: int) -> str:
    """PIL's `image` as an address that holds it, at most `side` pixels long; some 50 kB."""
    image = image.copy()
    image.thumbnail((side, side))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=78)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _over(photo: Size, framed: Framed) -> tuple[float, float]:
    """How much of the photo stands over the crop, as a part of the crop's width and height."""
    left, top, right, bottom = framed.box
    over = (photo[0] / (right - left) - 1, photo[1] / (bottom - top) - 1)
    return tuple(value if value > 0.005 else 0.0 for value in over)  # type: ignore[return-value]
