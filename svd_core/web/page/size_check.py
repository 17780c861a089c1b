"""File size check in the browser, with a message beside the field.

The server would refuse them as well, but only after they were on their way, and without a word.
"""

import gradio as gr

from svd_core.media.image import MAX_BYTES
from svd_core.web.page.i18n import client_text
from svd_core.web.page.scripts import script


def size_check() -> None:
    check = script("size_check.js").replace("MAX_BYTES = 0", f"MAX_BYTES = {MAX_BYTES}")
    gr.HTML(f"<p>{client_text('too_large')}</p>", elem_id="too-large", js_on_load=check)
