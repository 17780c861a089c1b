"""Demo mode, for a projector: a large player and a strip of examples, and nothing else.

It runs in the browser alone, so it goes on whatever the server is doing.
"""

from collections.abc import Sequence
from html import escape
from urllib.parse import quote

import gradio as gr

from svd_core.web.page.examples import Example
from svd_core.web.page.texts import fixed

STAY_S = 8
"""Seconds that an example plays, and thrice that after somebody chose it."""

SCRIPT = """
const dialog = element.querySelector("dialog");
const video = dialog.querySelector("video");
const buttons = [...dialog.querySelectorAll("[data-video]")];
let timer = 0;
const show = (button, seconds) => {
    buttons.forEach((each) => each.toggleAttribute("aria-current", each === button));
    video.src = button.dataset.video;
    video.setAttribute("aria-label", button.textContent.trim());
    video.play().catch(() => {});
    button.scrollIntoView({ block: "nearest", inline: "center" });
    clearTimeout(timer);
    timer = setTimeout(next, 1000 * seconds);
};
const next = () => {
    const at = buttons.findIndex((each) => each.hasAttribute("aria-current"));
    show(buttons[(at + 1) % buttons.length], STAY);
};
const open = () => { dialog.showModal(); next(); };
dialog.addEventListener("close", () => { clearTimeout(timer); video.pause(); });
dialog.querySelector(".svd-leave").addEventListener("click", () => dialog.close());
buttons.forEach((each) => each.addEventListener("click", () => show(each, 3 * STAY)));
document.addEventListener("click", (event) => {
    if (event.target.closest("#demo-switch")) open();
});
if (new URLSearchParams(location.search).has("demo")) open();
""".replace("STAY", str(STAY_S))


def demo_switch() -> None:
    gr.Button(fixed("demo"), size="sm", elem_id="demo-switch", min_width=110, scale=0)


def demo_stage(found: Sequence[Example]) -> None:
    strip = "".join(
        f'<button type="button" data-video="{_url(each.video)}">'
        f'<img src="{_url(each.photo)}" alt="" loading="lazy">{escape(each.name)}</button>'
        for each in found
    )
    leave = f'<button type="button" class="svd-leave">{fixed("demo_leave")}</button>'
    gr.HTML(
        f'<dialog aria-label="Stable Video Diffusion">{leave}<video muted loop playsinline></video>'
        f'<div class="svd-strip">{strip}</div></dialog>',
        elem_id="demo",
        js_on_load=SCRIPT,
    )


def _url(path: object) -> str:
    return f"gradio_api/file={quote(str(path))}"
