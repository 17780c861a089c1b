"""The Gradio page: components and bindings, texts in two languages, style sheet and scripts."""

from svd_core.web.page.backend import Backend, SessionIds
from svd_core.web.page.layout import build_page

__all__ = ["Backend", "SessionIds", "build_page"]
