"""Dependencies of all API routes, made from the settings."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import urlsplit

from anyio import CapacityLimiter

from svd_core.checkpoints.catalog import CostLimits
from svd_core.engine.engine import EngineStatus
from svd_core.jobs import Job, JobQueue
from svd_core.settings import Settings, space_url
from svd_core.storage import ResultStore
from svd_core.web.fal.api_keys import ApiKeys
from svd_core.web.fal.secrets import load_secret
from svd_core.web.fal.signed_tokens import SignedTokens
from svd_core.web.fal.uploads import UploadLimits, UploadStore
from svd_core.web.fal.urls import UrlBuilder
from svd_core.web.fal.webhook_signing import Signer
from svd_core.web.origins import is_loopback
from svd_core.web.request_body import BodyReader
from svd_core.web.safe_http import Fetcher

MAX_KEEP_S = 1e9
"""Seconds, some 32 years: the longest that a file may stay, for file systems know no infinity."""


@dataclass(frozen=True)
class ApiContext:
    """What needs no queue, so that the queue can be made with some of it.

    `open_here`: whether everybody may call while there are no keys. Raises `InvalidSettings` on
    first use for a data folder that cannot be written.
    """

    settings: Settings
    results: ResultStore
    open_here: bool

    @cached_property
    def tokens(self) -> SignedTokens:
        return SignedTokens(load_secret(self.settings.data_dir / "secrets" / "links"))

    @cached_property
    def signer(self) -> Signer:
        return Signer(load_secret(self.settings.data_dir / "secrets" / "webhooks"))

    @cached_property
    def keys(self) -> ApiKeys:
        # A proxy in front is a program of this machine too, whoever calls through it.
        public = self.settings.public_url or space_url()
        near = not public or is_loopback(urlsplit(public).netloc)
        return ApiKeys(self.settings.api_keys, open_here=self.open_here and near)

    @cached_property
    def urls(self) -> UrlBuilder:
        return UrlBuilder(self.settings.public_url or space_url(), self.tokens)

    @cached_property
    def fetcher(self) -> Fetcher:
        return Fetcher(self.settings.allow_private_urls)

    @cached_property
    def costs(self) -> CostLimits:
        """What one video may cost. Those who have a key are no strangers."""
        return CostLimits(self.settings.max_steps, self.settings.max_frames)

    @cached_property
    def bodies(self) -> BodyReader:
        return BodyReader(total_s=self.settings.body_seconds)

    @cached_property
    def parsing(self) -> CapacityLimiter:
        """Of the threads that parse large bodies."""
        return CapacityLimiter(2)

    @cached_property
    def uploads(self) -> UploadStore:
        own = self.settings
        limits = UploadLimits(
            file=own.max_upload_mb << 20,
            owner=int(own.uploads_gb * 1e9),
            all=int(own.keep_gb * 1e9),
            keep_s=min(own.keep_hours * 3600, MAX_KEEP_S),
        )
        return UploadStore(own.data_dir / "uploads", limits, self.tokens)


@dataclass(frozen=True)
class ApiService:
    """`ApiContext`, and what stands behind them. `on_submit` is told each job that was put in line.

    `lookups` keeps names that take long to be found from taking every thread.
    """

    context: ApiContext
    queue: JobQueue
    status: Callable[[], EngineStatus]
    on_submit: Callable[[Job], None] = lambda _: None
    lookups: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(8))
