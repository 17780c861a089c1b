"""Backend of the page: submits jobs to the queue and finds those of a session."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from svd_core.checkpoints.catalog import CostLimits
from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.engine.engine import EngineStatus
from svd_core.errors import InvalidImage, SvdError
from svd_core.extend import continuation_request
from svd_core.jobs import Job, JobOptions, JobQueue
from svd_core.media.image import open_photo
from svd_core.params import VideoParams, VideoRequest
from svd_core.storage import ResultStore
from svd_core.web.job_metadata import read_memo, to_memo
from svd_core.web.page.session_id import SessionIds
from svd_core.web.rate_limits import AddressQuota, client_address


@dataclass(frozen=True)
class Backend:
    """Job queue, results and limits, as the page uses them.

    `status`: called when a visitor opens the page and while the model loads. `remove`: deletes
    finished jobs and their results. `acceleration`: the speeds on offer. `costs`: limits of one
    video. `quota`: limit of jobs for one network address.
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

        `values`: by the core's names; empty fields (None) are left to the defaults. `job_memo`: see
        `job_metadata`. `address`: of the client, by default that of the current request.
        Raises `InvalidRequest` (and with it `InvalidImage`), `QueueFull`.
        """
        if image is None:
            raise InvalidImage("image_missing")
        self.queue.ensure_room(JobOptions(owner=self.session_ids.owner(session_id)))
        open_photo(image)  # so that a photo that cannot be used is refused at once
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

    def room(self, session_id: object) -> int:
        """Number of further jobs that the queue takes from this visitor now."""
        return self.queue.room(self.session_ids.owner(session_id))

    def rerun(self, job: Job, change: Callable[[VideoParams], VideoParams]) -> VideoRequest:
        """The request of `job` with changed settings. Raises `InvalidImage` without its photo."""
        photo = self.queue.photo(job.id)
        if photo is None or job.params is None:
            raise InvalidImage("image_expired")
        return VideoRequest(photo, change(job.params), read_memo(job).get("continues"))

    def extend(self, job: Job) -> VideoRequest:
        """The request that continues the video of `job`. Raises `UnknownJob`, `InvalidRequest`."""
        params = job.params or VideoParams()
        return continuation_request(self.results, job.id, with_new_seed(params))

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
    return replace(params, seed=VideoParams().seed)
