"""The Gradio page: components and bindings, texts in two languages, style sheet and scripts."""

from svd_core.web.page.backend import Backend
from svd_core.web.page.layout import build_page
from svd_core.web.page.session_id import SessionIds

__all__ = ["Backend", "SessionIds", "build_page"]
