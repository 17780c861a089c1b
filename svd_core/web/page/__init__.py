"""The page: what is on it (`layout`), what it says (`texts.toml`) and looks like (`look`)."""

from svd_core.web.page.backend import Backend
from svd_core.web.page.layout import build_page

__all__ = ["Backend", "build_page"]
