"""Files too large for this server are stopped in the browser, with a sentence beside their field.

The server would refuse them as well, but only after they were on their way, and without a word.
"""

import gradio as gr

from svd_core.media.image import MAX_BYTES
from svd_core.web.page.i18n import fixed
from svd_core.web.page.scripts import script


def too_large() -> None:
    check = script("size_check.js").replace("MAX_BYTES = 0", f"MAX_BYTES = {MAX_BYTES}")
    gr.HTML(f"<p>{fixed('too_large')}</p>", elem_id="too-large", js_on_load=check)
