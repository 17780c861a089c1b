"""The HTTP API in the dialect of fal's clients."""

from svd_core.web.fal.app import build_api
from svd_core.web.fal.dependencies import ApiContext, ApiService

__all__ = ["ApiContext", "ApiService", "build_api"]
