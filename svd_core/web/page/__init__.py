"""The page: what is on it (`layout`), what it says (`texts.toml`) and looks like (`theme`)."""

from svd_core.web.page.backend import Backend
from svd_core.web.page.layout import build_page
from svd_core.web.page.session_id import Visitors

__all__ = ["Backend", "Visitors", "build_page"]
