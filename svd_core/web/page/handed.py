"""A file that is made at a click and handed over as a download."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from svd_core.web.page.occasions import QUICK

TAKE = """() => setTimeout(() => {
    const found = document.querySelector("#ID");
    (found.querySelector("a") || found).click();
}, 200)"""


@dataclass(frozen=True)
class Handed:
    """`file` is not seen; once a file is in it, the script clicks it."""

    go: gr.Button
    file: gr.DownloadButton

    @classmethod
    def build(cls, label: Any, elem_id: str, **options: Any) -> "Handed":
        go = gr.Button(label, elem_id=elem_id, **options)
        return cls(go, gr.DownloadButton("", visible="hidden", elem_id=f"{elem_id}-file"))

    def wire(self, make: Callable[..., Any], inputs: Any, *outputs: Block) -> None:
        """`make` returns changes; with a file among them, the download begins."""
        made = self.go.click(make, inputs, [self.file, *outputs], **QUICK)
        take = TAKE.replace("ID", f"{self.go.elem_id}-file")
        made.success(None, js=take, api_visibility="private")

    def place(self, name: str) -> Path:
        """Where to write a file of that name: in a folder of its own, among those that Gradio
        hands out, and removes after a day."""
        cache = Path(self.file.GRADIO_CACHE)
        cache.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(dir=cache)) / name
        self.file.temp_files.add(str(path))
        return path
