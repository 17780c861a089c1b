"""Submit, cancel, poll, kill and restart in any order: no accepted job is lost or ends twice.

The servers are processes of their own and are killed for real; the one that submits and polls
stands here and has no worker.
"""

import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from svd_core.errors import GenerationFailed, InvalidImage, InvalidRequest, QueueFull
from svd_core.events import Failed, Progress, Stopped, Succeeded
from svd_core.jobs import Cancellation, Job, JobOptions, QueueLimits, RemoteRequest, TableQueue
from svd_core.jobs.store import MAX_ATTEMPTS
from svd_core.params import VideoParams, VideoRequest
from tests.fakes.job_events import eventually
from tests.fakes.queue_server import server
from tests.fakes.work import open_table, premises

MOST = 4


class AnyOrder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = ExitStack()
        self.folder = Path(self.world.enter_context(tempfile.TemporaryDirectory()))
        self.table = self.world.enter_context(open_table(self.folder))
        limits = QueueLimits(max_queue=MOST, lease_s=600, poll_interval_s=0.02)
        self.front = TableQueue(premises(self.table, self.folder, limits))
        self.world.callback(self.front.close)
        self.server = ExitStack()
        self.serves = False
        self.jobs: dict[str, tuple[bytes, Job]] = {}
        self.rejected: list[str] = []
        self.removed: set[str] = set()
        self.asked: set[str] = set()
        self.seen: dict[str, int] = {}
        self.kills = 0
        self.start()

    @property
    def options(self) -> JobOptions:
        return JobOptions(webhook=f"file:{self.folder / 'told'}")

    @rule(photo=st.sampled_from([b"hold", b"quick", b"bad"]), low=st.booleans())
    def submit(self, photo: bytes, low: bool) -> None:
        options = JobOptions(**vars(self.options) | {"priority": "low" if low else "normal"})
        try:
            job = self.front.submit(VideoRequest(photo, VideoParams(seed=1)), options)
        except QueueFull:
            assert sum(not job.done for _, job in self.jobs.values()) >= MOST
        else:
            self.jobs[job.id] = photo, job

    @rule()
    def submit_an_address(self) -> None:
        """Its photo is held back as the jobs of photos `hold` are."""
        try:
            job = self.front.submit(
                RemoteRequest("http://host/go", VideoParams(seed=1)), self.options
            )
        except QueueFull:
            assert sum(not job.done for _, job in self.jobs.values()) >= MOST
        else:
            self.jobs[job.id] = b"quick", job

    @rule()
    def reject(self) -> None:
        self.rejected.append(self.front.reject(InvalidRequest("fps", "No."), self.options).id)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        _, job = self.jobs[data.draw(st.sampled_from(sorted(self.jobs)))]
        match job.cancel():
            case Cancellation.REMOVED:
                assert job.last == Stopped()
                self.removed.add(job.id)
            case Cancellation.REQUESTED:
                self.asked.add(job.id)
            case Cancellation.TOO_LATE:
                assert self.front.get(job.id).done

    @rule()
    def let_go(self) -> None:
        (self.folder / "go").touch()

    @rule()
    def hold(self) -> None:
        (self.folder / "go").unlink(missing_ok=True)

    @rule()
    def kill(self) -> None:
        self.kills += self.serves
        self.server.close()
        self.serves = False

    @precondition(lambda self: not self.serves)
    @rule()
    def start(self) -> None:
        self.server.enter_context(server(self.folder))
        self.serves = True

    @rule(seconds=st.sampled_from([0.01, 0.05, 0.2]))
    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    @invariant()
    def polls_never_go_back(self) -> None:
        for job_id, (_, job) in self.jobs.items():
            found = self.front.get(job_id)
            assert 0 <= self.front.position(job_id) <= MOST + 1
            assert found.done or not job.done
            number = job.events_since()[-1].number
            assert number >= self.seen.get(job_id, 0)
            self.seen[job_id] = number

    def teardown(self) -> None:
        try:
            self.let_go()
            if not self.serves:
                self.start()
            for job_id, (photo, job) in self.jobs.items():
                eventually(lambda job=job: job.done)
                self.judge(job_id, photo, job)
            self.webhooks_have_arrived()
        finally:
            self.server.close()
            self.world.close()

    def judge(self, job_id: str, photo: bytes, job: Job) -> None:
        row = self.table.get(job_id)
        assert row is not None
        endings = [e.event for e in row.record if not isinstance(e.event, Progress)]
        assert len(endings) == 1
        (end,) = endings
        assert type(job.last) is type(self.front.get(job_id).last) is type(end)
        if job_id in self.removed:
            assert end == Stopped()
            assert self.kills or job_id not in self.began()
        elif end == Stopped():
            assert job_id in self.asked
        elif isinstance(end, Failed) and isinstance(end.error, GenerationFailed):
            assert row.attempt == MAX_ATTEMPTS <= self.kills
        elif isinstance(end, Failed):
            assert photo == b"bad"
            assert isinstance(end.error, InvalidImage)
        else:
            assert isinstance(end, Succeeded)
            assert photo != b"bad"
            assert end.video.path.stat().st_size > 1000
        if not self.kills:
            assert self.began()[job_id] <= 1

    def webhooks_have_arrived(self) -> None:
        """Each at least once, and never before the end."""
        ended = {*self.jobs, *self.rejected}

        def told() -> list[list[str]]:
            file = self.folder / "told"
            return [line.split() for line in file.read_text().splitlines()] if ended else []

        eventually(lambda: not ended or (self.folder / "told").exists())
        eventually(lambda: {job_id for job_id, _ in told()} == ended)
        assert all(end in ("Succeeded", "Failed", "Stopped") for _, end in told())

    def began(self) -> Counter[str]:
        file = self.folder / "begun"
        return Counter(file.read_text().split() if file.exists() else [])


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=10, stateful_step_count=12, deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
