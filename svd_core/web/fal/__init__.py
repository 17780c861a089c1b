"""The HTTP API, in the dialect of fal's clients; nothing outside this folder knows its names."""

from svd_core.web.fal.app import build_api
from svd_core.web.fal.dependencies import Parts, Service
from svd_core.web.fal.urls import MOUNT
from svd_core.web.fal.webhooks import Webhooks

__all__ = ["MOUNT", "Parts", "Service", "Webhooks", "build_api"]
