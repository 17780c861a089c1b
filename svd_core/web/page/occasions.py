"""How Gradio is to treat the page's own events."""

from typing import Any

QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""For events that are the page's own business, and over at once."""
