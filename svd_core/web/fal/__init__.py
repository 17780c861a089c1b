"""The HTTP API, in the dialect of fal's clients; nothing outside this folder knows its names."""

from svd_core.web.fal.api import build_api
from svd_core.web.fal.links import MOUNT
from svd_core.web.fal.parts import Parts, Service
from svd_core.web.fal.webhook import Webhooks

__all__ = ["MOUNT", "Parts", "Service", "Webhooks", "build_api"]
