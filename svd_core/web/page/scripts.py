"""JavaScript of the page, by the name of its file under `static/`."""

from pathlib import Path

STATIC = Path(__file__).parent / "static"


def script(name: str) -> str:
    """For `gr.HTML(js_on_load=...)`, which gives it `element`, `trigger` and `watch`; a file that
    is one arrow function is for an event's `js=...`."""
    return (STATIC / name).read_text(encoding="utf-8")
