"""Drop zone: files dropped anywhere on the page go to the field that takes them.

Several photos go to the panel for them; a hint says what will be while a file is over the page.

On a field that takes files it is what that field takes: a GIF or a WebP on the photo is a photo.
Elsewhere a GIF is a video, as hardly any photo is one, and a WebP is if it moves. Stock fields lose
what is dropped on them while they hold a file, so theirs are placed here too.

Files larger than the server takes are stopped in the browser, with a message beside the field.
"""

import gradio as gr

from svd_core.media.image import MAX_BYTES
from svd_core.web.page.i18n import client_text
from svd_core.web.page.scripts import script


def size_check() -> None:
    check = script("size_check.js").replace("MAX_BYTES = 0", f"MAX_BYTES = {MAX_BYTES}")
    gr.HTML(f"<p>{client_text('too_large')}</p>", elem_id="too-large", js_on_load=check)


def drop_zone() -> None:
    gr.HTML(client_text("drop"), elem_id="drop", padding=False, js_on_load=script("drop_zone.js"))
