"""Dependencies of the API routes, made from the settings."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import urlsplit

from anyio import CapacityLimiter

from svd_core.checkpoints.catalog import CostLimits
from svd_core.engine.engine import EngineStatus
from svd_core.jobs import Job, JobQueue
from svd_core.settings import Settings
from svd_core.storage import ResultStore
from svd_core.web.fal.auth import ApiKeys
from svd_core.web.fal.signed_tokens import SignedTokens, UrlBuilder, load_secret
from svd_core.web.fal.uploads import UploadLimits, UploadStore
from svd_core.web.fal.webhooks import Signer, send_webhook
from svd_core.web.origins import is_loopback
from svd_core.web.public_address import configured_url
from svd_core.web.request_body import BodyReader
from svd_core.web.safe_http import Fetcher

MAX_KEEP_S = 1e9
"""Longest time to keep a file: about 32 years, since file times have no infinity."""


@dataclass(frozen=True)
class ApiContext:
    """Dependencies without the queue, which needs some of them itself.

    `open_here`: see `ApiKeys`. Raises `InvalidSettings` on first use if the data folder cannot be
    written.
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
        # A proxy in front runs on this machine, but its callers may not.
        public = configured_url(self.settings)
        local = not public or is_loopback(urlsplit(public).netloc)
        return ApiKeys(self.settings.api_keys, open_here=self.open_here and local)

    @cached_property
    def urls(self) -> UrlBuilder:
        return UrlBuilder(configured_url(self.settings), self.tokens)

    @cached_property
    def fetcher(self) -> Fetcher:
        return Fetcher(self.settings.allow_private_urls)

    @cached_property
    def costs(self) -> CostLimits:
        """Limits of one video. Callers with a key may exceed the checkpoint's own."""
        return CostLimits(self.settings.max_steps, self.settings.max_frames)

    @cached_property
    def bodies(self) -> BodyReader:
        return BodyReader(total_s=self.settings.body_seconds)

    @cached_property
    def parsing(self) -> CapacityLimiter:
        """Limit of threads that parse large bodies."""
        return CapacityLimiter(2)

    @cached_property
    def uploads(self) -> UploadStore:
        settings = self.settings
        limits = UploadLimits(
            file=settings.max_upload_mb << 20,
            owner=settings.uploads_gb * 1e9,
            all=settings.keep_gb * 1e9,
            keep_s=min(settings.keep_hours * 3600, MAX_KEEP_S),
        )
        return UploadStore(settings.data_dir / "uploads", limits, self.tokens)

    def send_webhook(self, job: Job, url: str) -> None:
        """See `webhooks.send_webhook`. The first webhook creates the private key."""
        send_webhook(job, url, self.urls, self.signer, self.fetcher)


@dataclass(frozen=True)
class ApiService:
    """Dependencies with the queue and the engine. `on_submit` is called with each new job.

    `lookups`: limit of threads that resolve host names, or slow ones would take every thread.
    """

    context: ApiContext
    queue: JobQueue
    status: Callable[[], EngineStatus]
    on_submit: Callable[[Job], None] = lambda _: None
    lookups: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(8))
