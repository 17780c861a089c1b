"""Download button whose file is made at the click."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from svd_core.temp_folder import export_path, remove_copies
from svd_core.web.page.components import UNQUEUED_EVENT
from svd_core.web.page.scripts import script


@dataclass(frozen=True)
class DownloadButton:
    """`file` is not seen; once a file is in it, the script clicks it."""

    button: gr.Button
    file: gr.DownloadButton

    @classmethod
    def build(cls, label: Any, elem_id: str, **options: Any) -> "DownloadButton":
        go = gr.Button(label, elem_id=elem_id, **options)
        return cls(go, gr.DownloadButton("", visible="hidden", elem_id=f"{elem_id}-file"))

    def bind(self, make: Callable[..., Any], inputs: Any, *outputs: Block) -> None:
        """`make` returns changes; with a file among them, the download begins."""
        made = self.button.click(make, inputs, [self.file, *outputs], **UNQUEUED_EVENT)
        take = script("download.js").replace("ELEM_ID", f"{self.button.elem_id}-file")
        made.success(None, js=take, api_visibility="private")

    def path_for(self, name: str, key: str) -> Path:
        """Where to write a file of that name for `key`, the id of a job or another secret: in the
        folder of temporary files, in the place of an earlier one."""
        path = export_path(Path(self.file.GRADIO_CACHE), key, name)
        self.file.temp_files.add(str(path))
        return path

    def discard(self, *keys: str) -> None:
        """Remove all files that were made for these keys, and copies that Gradio made of theirs."""
        remove_copies(Path(self.file.GRADIO_CACHE), *keys)
