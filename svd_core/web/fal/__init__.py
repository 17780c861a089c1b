"""The HTTP API in the dialect of fal's clients."""

from svd_core.web.fal.app import build_api
from svd_core.web.fal.dependencies import ApiContext, ApiService
from svd_core.web.snippets import MOUNT

__all__ = ["MOUNT", "ApiContext", "ApiService", "build_api"]
