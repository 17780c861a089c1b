"""Submit, cancel, poll, kill and restart in any order: no accepted job is lost or ends twice.

The servers are processes of their own and are killed for real; the client talks to them by a pipe.
"""

import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from svd_core.errors import GenerationFailed, InvalidImage, QueueFull
from svd_core.events import Failed, Progress, Stopped, Succeeded
from svd_core.jobs import Cancellation
from svd_core.jobs.store import MAX_ATTEMPTS
from tests.fakes.job_events import eventually
from tests.fakes.queue_server import Server, ServerJob, server
from tests.fakes.work import open_table

MOST = 4


class AnyOrder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = ExitStack()
        self.folder = Path(self.world.enter_context(tempfile.TemporaryDirectory()))
        self.running = ExitStack()
        self.server: Server | None = None
        self.photos: dict[str, bytes] = {}
        self.rejected: list[str] = []
        self.removed: set[str] = set()
        self.asked: set[str] = set()
        self.ended: dict[str, str] = {}
        self.seen: dict[str, int] = {}
        self.kills = 0
        self.start()

    def serves(self) -> bool:
        return self.server is not None

    @property
    def webhook(self) -> str:
        return f"file:{self.folder / 'told'}"

    def job(self, job_id: str) -> ServerJob:
        assert self.server is not None
        return self.server.job(job_id)

    @precondition(serves)
    @rule(photo=st.sampled_from([b"hold", b"quick", b"bad"]), low=st.booleans())
    def submit(self, photo: bytes, low: bool) -> None:
        self._submit(photo, photo, "low" if low else "normal")

    @precondition(serves)
    @rule()
    def submit_an_address(self) -> None:
        """Its photo is held back as the jobs of photos `hold` are."""
        self._submit("http://host/go", b"quick", "normal")

    def _submit(self, photo: bytes | str, kind: bytes, priority: str) -> None:
        assert self.server is not None
        try:
            job = self.server.submit(photo, priority=priority, webhook=self.webhook)
        except QueueFull:
            assert sum(not self.job(job_id).done for job_id in self.photos) >= MOST
        else:
            self.photos[job.id] = kind

    @precondition(serves)
    @rule()
    def reject(self) -> None:
        assert self.server is not None
        self.rejected.append(self.server.reject(webhook=self.webhook))

    @precondition(lambda self: self.serves() and self.photos)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = self.job(data.draw(st.sampled_from(sorted(self.photos))))
        match job.cancel():
            case Cancellation.REMOVED:
                assert job.last == Stopped()
                self.removed.add(job.id)
            case Cancellation.REQUESTED:
                self.asked.add(job.id)
            case Cancellation.TOO_LATE:
                assert job.done

    @rule()
    def let_go(self) -> None:
        (self.folder / "go").touch()

    @rule()
    def hold(self) -> None:
        (self.folder / "go").unlink(missing_ok=True)

    @rule()
    def kill(self) -> None:
        self.kills += self.serves()
        self.running.close()
        self.server = None

    @precondition(lambda self: not self.serves())
    @rule()
    def start(self) -> None:
        self.server = self.running.enter_context(server(self.folder, MOST))
        assert self.server.first_words == "ready"

    @precondition(serves)
    @rule()
    def kill_beside_a_standby(self) -> None:
        assert self.server is not None
        standby = ExitStack()
        second = standby.enter_context(server(self.folder, MOST))
        self.kill()
        second.wait_until_ready()
        self.running, self.server = standby, second

    @rule(seconds=st.sampled_from([0.01, 0.05, 0.2]))
    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    @precondition(serves)
    @invariant()
    def polls_never_go_back(self) -> None:
        for job_id in self.photos:
            job = self.job(job_id)
            assert 0 <= job.position <= MOST + 1
            newest = job.events_since()[-1]
            assert newest.number >= self.seen.get(job_id, 0)
            self.seen[job_id] = newest.number
            if job_id in self.ended:
                assert repr(newest.event) == self.ended[job_id]
            elif not isinstance(newest.event, Progress):
                self.ended[job_id] = repr(newest.event)

    def teardown(self) -> None:
        try:
            self.let_go()
            if not self.serves():
                self.start()
            for job_id, photo in self.photos.items():
                job = self.job(job_id)
                eventually(lambda job=job: job.done)
                self.judge(job, photo)
            self.webhooks_have_arrived()
        finally:
            self.running.close()
            self.world.close()

    def judge(self, job: ServerJob, photo: bytes) -> None:
        with open_table(self.folder) as table:
            row = table.get(job.id)
        assert row is not None
        endings = [e.event for e in row.record if not isinstance(e.event, Progress)]
        assert len(endings) == 1
        (end,) = endings
        assert type(job.last) is type(end)
        if job.id in self.removed:
            assert end == Stopped()
            assert self.kills or job.id not in self.began()
        elif end == Stopped():
            assert job.id in self.asked
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
            assert self.began()[job.id] <= 1

    def webhooks_have_arrived(self) -> None:
        """Each at least once, and never before the end."""
        ended = {*self.photos, *self.rejected}

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
    stateful_step_count=12, suppress_health_check=[HealthCheck.too_slow]
)
