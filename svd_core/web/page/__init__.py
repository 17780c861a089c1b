"""The page: what is on it (`layout`), what it does (`actions`), says (`words`) and looks like."""

from svd_core.web.page.layout import build_page

__all__ = ["build_page"]
