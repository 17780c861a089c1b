"""Options of Gradio events, and values that a script sends along."""

from typing import Any

import gradio as gr

UNQUEUED_EVENT: dict[str, Any] = {
    "queue": False,
    "show_progress": "hidden",
    "api_visibility": "private",
}
"""For events that are the page's own business, and over at once."""


def event_value(event: gr.EventData, name: str) -> Any:
    """A value that a script sent along; None if it is not there, as in made-up requests."""
    return getattr(event, name, None)
