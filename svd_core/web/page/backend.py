"""Backend of the page: submits jobs to the queue and finds those of a session.

A session id is random, signed with HMAC by the server, and kept in the browser. Invariant: only ids
that this server issued are valid, so visitors cannot be forged. Jobs carry a hash of their session
id, so reading the job table does not let anyone take over a session.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from svd_core.checkpoints.catalog import CostLimits
from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.engine.engine import EngineStatus
from svd_core.errors import InvalidImage, SvdError
from svd_core.extend import continuation_request
from svd_core.jobs import Job, JobOptions, JobQueue
from svd_core.media.image import open_photo
from svd_core.params import VideoParams, VideoRequest, draw_seed
from svd_core.storage import ResultStore
from svd_core.web.job_metadata import read_memo, to_memo
from svd_core.web.rate_limits import AddressQuota, client_address

SESSION_ID = re.compile(r"[0-9a-f]{32}([0-9a-f]{32})?")
"""128 random bits and 128 bits of their signature, which ids of earlier versions lack."""


class SessionIds:
    """Issues and checks session ids.

    `secret`: the signing key. Without one, a random key is used, and session ids last only as long
    as this object. `has_jobs`: whether an owner has jobs, which makes an unsigned id of an earlier
    version valid.
    """

    def __init__(
        self, secret: bytes | None = None, has_jobs: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._secret = secret or secrets.token_bytes(32)
        self._has_jobs = has_jobs

    def ensure_id(self, session: object) -> str:
        """The session id that a browser sent if it is valid, else a new one."""
        if self.owner(session):
            return str(session)
        token = secrets.token_hex(16)
        return token + self._signature(token)

    def owner(self, session: object) -> str:
        """Owner of the jobs of a session id; empty for an invalid one.

        No API key can have this owner, because ids of keys contain no colon.
        """
        if not isinstance(session, str) or not SESSION_ID.fullmatch(session):
            return ""
        token, signature = session[:32], session[32:]
        owner = f"page:{hashlib.sha256(session.encode()).hexdigest()[:32]}"
        if signature:
            is_valid = hmac.compare_digest(signature, self._signature(token))
        else:
            is_valid = self._has_jobs(owner)
        return owner if is_valid else ""

    def _signature(self, token: str) -> str:
        message = f"visitor:{token}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()[:32]


@dataclass(frozen=True)
class Backend:
    """Job queue, results and limits, as the page uses them.

    `status`: called when a visitor opens the page and while the model loads. `remove`: deletes
    finished jobs and their results. `acceleration`: the speeds on offer. `costs`: limits of one
    video. `quota`: limit of open jobs for each network address.
    """

    queue: JobQueue
    status: Callable[[], EngineStatus]
    results: ResultStore
    remove: Callable[[Sequence[str]], None]
    acceleration: AccelerationConfig = AccelerationConfig()  # noqa: RUF009 - frozen
    costs: CostLimits = CostLimits()  # noqa: RUF009 - frozen
    quota: AddressQuota = field(default_factory=AddressQuota)
    session_ids: SessionIds = field(default_factory=SessionIds)

    def submit(
        self,
        image: bytes | None,
        values: Mapping[str, object],
        session_id: object = None,
        job_memo: str = "",
        address: str | None = None,
    ) -> Job:
        """Submit a job.

        `values`: by the core's names; empty fields (None) take their defaults. `job_memo`: see
        `job_metadata`. `address`: of the client, by default that of the current request.
        Raises `InvalidRequest`, which includes `InvalidImage`, and what `submit_request` raises.
        """
        if image is None:
            raise InvalidImage("image_missing")
        self.queue.ensure_room(JobOptions(owner=self.session_ids.owner(session_id)))
        open_photo(image)  # an unusable photo is refused now, not when its turn comes
        filled = {name: value for name, value in values.items() if value is not None}
        request = VideoRequest(image, VideoParams.from_mapping(filled))
        return self.submit_request(request, session_id, job_memo, address)

    def submit_request(
        self,
        request: VideoRequest,
        session_id: object,
        job_memo: str = "",
        address: str | None = None,
    ) -> Job:
        """Submit a request.

        Raises `QueueFull`, `ServerStopping`, and `InvalidRequest` for a speed or a checkpoint that
        this server does not have, and for a video that costs more than it allows.
        """
        self.acceleration.check(request.params.speed)
        checkpoint = self.status().catalog.get(request.params.model)
        request = replace(request, params=self.costs.limit(request.params, checkpoint))
        owner = self.session_ids.owner(session_id)
        job_memo = job_memo or (to_memo(continues=request.continues) if request.continues else "")
        options = JobOptions(owner=owner, keep_photo=bool(owner), memo=job_memo)
        return self.quota.submit(
            client_address.get() if address is None else address,
            lambda: self.queue.submit(request, options),
        )

    def rerun(self, job: Job, change: Callable[[VideoParams], VideoParams]) -> VideoRequest:
        """The request of `job` with changed settings. Raises `InvalidImage` without its photo."""
        photo = self.queue.photo(job.id)
        if photo is None or job.params is None:
            raise InvalidImage("image_expired")
        return VideoRequest(photo, change(job.params), read_memo(job).get("continues"))

    def extend(self, job: Job) -> VideoRequest:
        """The request that continues the video of `job`. Raises `UnknownJob`, `InvalidRequest`."""
        params = with_new_seed(job.params or VideoParams())
        return continuation_request(self.results, job.id, params)

    def jobs(self, session_id: object) -> Sequence[Job]:
        """This visitor's jobs, the newest first."""
        owner = self.session_ids.owner(session_id)
        return self.queue.of_owner(owner) if owner else []

    def job(self, job_id: object, session_id: object) -> Job | None:
        """The job of an id that a browser sent, if it is this visitor's."""
        try:
            job = self.queue.get(job_id) if isinstance(job_id, str) else None
        except SvdError:
            return None
        owner = self.session_ids.owner(session_id)
        return job if job is not None and owner and job.options.owner == owner else None


def with_new_seed(params: VideoParams) -> VideoParams:
    """`params` with a random seed."""
    return replace(params, seed=draw_seed())
