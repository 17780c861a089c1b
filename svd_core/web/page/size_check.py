"""Files too large for this server are stopped in the browser, with a sentence beside their field.

The server would refuse them as well, but only after they were on their way, and without a word.
"""

import gradio as gr

from svd_core.media.image import MAX_BYTES
from svd_core.web.page.i18n import fixed

SCRIPT = """
const sentence = () => element.textContent.trim();
const field = (node) => node.closest(".block") || node.parentElement;
const said = (place) => place.parentElement.querySelector(":scope > .svd-too-large");
const refuse = (event) => {
    const files = [...(event.target.files || event.dataTransfer?.files || [])];
    const input = event.target.closest?.("input[type=file]");
    if (!files.length || (event.type === "change" && !input)) return;
    const place = field(event.target);
    said(place)?.remove();
    if (files.every((file) => file.size <= MAX_BYTES)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (input) input.value = "";
    const told = document.createElement("p");
    told.className = "svd-error svd-too-large";
    told.setAttribute("role", "alert");
    told.textContent = sentence();
    place.after(told);
};
for (const what of ["change", "drop"]) document.addEventListener(what, refuse, true);
""".replace("MAX_BYTES", str(MAX_BYTES))


def too_large() -> None:
    gr.HTML(f"<p>{fixed('too_large')}</p>", elem_id="too-large", js_on_load=SCRIPT)
