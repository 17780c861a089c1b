"""The queue over the job table, in SQLite and, where a server is installed, in PostgreSQL."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import text, update

from svd_core.errors import (
    InvalidImage,
    InvalidRequest,
    InvalidSettings,
    QueueFull,
    QueueUnavailable,
    StartTimeout,
    StorageFull,
    UnknownJob,
)
from svd_core.events import (
    Failed,
    OnProgress,
    Progress,
    Stage,
    Stopped,
    Succeeded,
    Video,
)
from svd_core.jobs import (
    Cancellation,
    Database,
    Fetch,
    Job,
    JobOptions,
    JobTable,
    LocalExecutor,
    Outbox,
    QueueContext,
    QueueLimits,
    RemoteRequest,
    TableQueue,
    WorkerQueue,
)
from svd_core.jobs.clock import SteadyClock
from svd_core.jobs.config import no_fetch
from svd_core.jobs.schema import JOBS, State
from svd_core.jobs.worker import MAX_CONCURRENT
from svd_core.params import VideoParams, VideoRequest
from svd_core.storage import PhotoStore
from tests.fakes.job_events import ending, eventually, failure, reached, submit

QUICK = QueueLimits(lease_s=600, poll_interval_s=0.05)


@dataclass
class Work:
    """Does what the photo says: `hold` stays until `go`, `busy` does so and looks up only then,
    `deaf` never does, `bad` fails, anything else succeeds."""

    done: list[bytes] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)

    def __call__(self, job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        on_progress(Progress(stage=Stage.DENOISING, step=1, total=2))
        while request.image == b"hold" and not self.go.wait(0.005):
            on_progress(Progress(stage=Stage.DENOISING, step=2, total=2))
        if request.image in (b"deaf", b"busy"):
            assert self.go.wait(10)
        if request.image == b"busy":
            on_progress(Progress(stage=Stage.DENOISING, step=2, total=2))
        self.done.append(request.image)
        if request.image == b"bad":
            raise InvalidImage("The photo is broken; please send another one.")
        return Video(
            path=Path(f"/nowhere/{job_id}.mp4"), width=64, height=64, num_frames=2, fps=7, seed=1,
            model="fake", elapsed_s=0.1,
        )  # fmt: skip


@dataclass(frozen=True)
class Servers:
    """Starts servers on one table and one disk, as many as are asked for, and stops them all."""

    url: str
    folder: Path
    opened: list[Callable[[], None]] = field(default_factory=list)

    def table(self, clock: SteadyClock | None = None) -> JobTable:
        database = Database(self.url)
        self.opened.append(database.close)
        return JobTable(database, clock)

    def front(self, limits: QueueLimits = QUICK, table: JobTable | None = None) -> TableQueue:
        """One without a worker."""
        queue = TableQueue(QueueContext(table or self.table(), self.photos, limits))
        self.opened.append(queue.close)
        return queue

    def worker(
        self,
        work: Work,
        limits: QueueLimits = QUICK,
        table: JobTable | None = None,
        fetch: Fetch = no_fetch,
    ) -> WorkerQueue:
        queue = WorkerQueue(
            [LocalExecutor(work)], QueueContext(table or self.table(), self.photos, limits, fetch)
        )
        self.opened.append(queue.close)
        self.opened.append(work.go.set)
        return queue

    @property
    def photos(self) -> PhotoStore:
        return PhotoStore(self.folder / "photos")


@pytest.fixture
def servers(url: str, tmp_path: Path) -> Iterator[Servers]:
    with running(url, tmp_path) as servers:
        yield servers


@contextmanager
def running(url: str, folder: Path) -> Iterator[Servers]:
    servers = Servers(url, folder)
    try:
        yield servers
    finally:
        for close in reversed(servers.opened):
            close()


class TestOptions:
    def test_low_ones_run_when_no_normal_one_waits(self, servers: Servers) -> None:
        queue = servers.worker(work := Work())
        first = submit(queue, b"hold")
        eventually(reached(first))
        jobs = [
            submit(queue, name, priority="low" if name < b"n" else "normal")
            for name in (b"low1", b"normal1", b"low2", b"normal2")
        ]
        assert [queue.position(job.id) for job in jobs] == [3, 1, 4, 2]
        assert [job.last.step for job in jobs] == [3, 1, 4, 2]  # type: ignore[union-attr]
        work.go.set()
        for job in jobs:
            ending(job)
        assert work.done == [b"hold", b"normal1", b"normal2", b"low1", b"low2"]

    def test_a_submitter_may_ask_for_a_short_line(self, servers: Servers) -> None:
        queue = servers.front()
        submit(queue, b"1", max_waiting=0)
        submit(queue, b"2", max_waiting=1)
        with pytest.raises(QueueFull, match="2 videos are waiting already"):
            submit(queue, b"3", max_waiting=1)
        assert queue.length() == 2
        submit(queue, b"3")

    def test_nobody_may_fill_the_line_alone(self, servers: Servers) -> None:
        queue = servers.front(QueueLimits(max_queue=4, max_per_owner=2))
        first, *_ = [submit(queue, b"", owner="ann") for _ in range(2)]
        with pytest.raises(QueueFull, match="2 of your videos are waiting"):
            submit(queue, b"", owner="ann")
        submit(queue, b"", owner="bob")
        first.cancel()
        submit(queue, b"", owner="ann")
        submit(queue, b"")
        with pytest.raises(QueueFull, match="4 videos are waiting already"):
            submit(queue, b"")

    def test_who_is_refused_fills_no_disk(self, servers: Servers) -> None:
        queue = servers.front(QueueLimits(max_queue=1))
        submit(queue, b"1")
        with pytest.raises(QueueFull):
            submit(queue, b"2")
        photos = [p.read_bytes() for p in servers.photos.folder.iterdir() if not p.suffix]
        assert photos == [b"1"]

    def test_running_jobs_take_no_place_in_line(self, servers: Servers) -> None:
        queue = servers.worker(
            Work(), QueueLimits(max_queue=1, max_per_owner=1, poll_interval_s=0.05)
        )
        eventually(reached(submit(queue, b"hold", owner="ann")))
        submit(queue, b"", owner="ann")
        with pytest.raises(QueueFull):
            submit(queue, b"", owner="bob")

    @pytest.mark.parametrize("age", ["fresh", "after a restart"])
    def test_a_job_that_is_not_started_in_time_fails(self, servers: Servers, age: str) -> None:
        queue = servers.worker(work := Work())
        blocking = submit(queue, b"hold")
        eventually(reached(blocking))
        late, patient = submit(queue, b"late", start_timeout_s=0.3), submit(queue, b"patient")
        if age == "after a restart":
            late = servers.front().get(late.id)
        error = failure(late)
        assert isinstance(error, StartTimeout)
        assert error.status == 504
        assert late.times.started is None
        assert late.times.ended is not None
        assert 0.3 <= (late.times.ended - late.times.submitted).total_seconds() < 5
        assert servers.table().time_out(blocking.id) is None  # it was started
        work.go.set()
        assert isinstance(ending(patient), Succeeded)
        assert work.done == [b"hold", b"patient"]

    def test_a_job_whose_time_is_up_is_not_begun_in_the_last_moment(self, servers: Servers) -> None:
        wall = [1000.0]
        table = servers.table(SteadyClock(lambda: wall[0], lambda: 0.0))
        row = table.new("a" * 32, VideoParams(seed=1), JobOptions(start_timeout_s=5))
        table.insert(row, (State.WAITING,), lambda *_: None)
        wall[0] += 5
        assert table.claim("worker") is None

    def test_whatever_was_asked_is_found_again(self, servers: Servers) -> None:
        options = JobOptions(
            priority="low", start_timeout_s=100.5, max_waiting=7, owner="ann", keep_s=60.0,
            webhook="https://example.org/a?b=ü", memo='{"any": "thing"}',
        )  # fmt: skip
        job = servers.front().submit(VideoRequest(b"", VideoParams(seed=9, fps=12)), options)
        found = servers.front().get(job.id)
        assert (found.options, found.params) == (options, VideoParams(seed=9, fps=12))
        assert found.times == job.times


class TestRejected:
    def test_a_rejected_job_has_an_id_an_end_and_a_reason(self, servers: Servers) -> None:
        queue = servers.front()
        job = queue.reject(InvalidRequest("fps", "fps must be lower."), JobOptions(memo="x"))
        for found in (job, queue.get(job.id), servers.front().get(job.id)):
            error = failure(found)
            assert type(error) is InvalidRequest
            assert (error.field, str(error), error.status) == ("fps", "fps must be lower.", 422)
            assert found.params is None
            assert found.options.memo == "x"
            assert found.times.started is None
            assert found.times.ended is not None
            assert found.cancel() is Cancellation.TOO_LATE
        assert queue.length() == queue.position(job.id) == 0

    def test_rejected_jobs_take_no_place_and_are_never_run(self, servers: Servers) -> None:
        queue = servers.worker(work := Work(), QueueLimits(max_queue=1, poll_interval_s=0.05))
        for _ in range(3):
            queue.reject(InvalidRequest("fps", "fps must be lower."))
        ending(submit(queue, b"1"))
        assert work.done == [b"1"]


class Hosts:
    """Addresses that give their own last part as the photo, once they are let go."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.let_go: dict[str, threading.Event] = defaultdict(threading.Event)
        self.under_way = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, url: str) -> bytes:
        with self._lock:
            self.asked.append(url)
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        assert self.let_go[url].wait(30)
        with self._lock:
            self.under_way -= 1
        if url.endswith("bad"):
            raise InvalidImage("There is no photo at that address.")
        return url.rpartition("/")[2].encode()


def at(queue: TableQueue, url: str, **options: object) -> Job:
    request = RemoteRequest(url, VideoParams(seed=1))
    return queue.submit(request, JobOptions(**options))  # type: ignore[arg-type]


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    yield (hosts := Hosts())
    for url in list(hosts.asked):
        hosts.let_go[url].set()


class TestPhotosAtAddresses:
    def test_they_are_fetched_while_the_job_waits(self, servers: Servers, hosts: Hosts) -> None:
        queue = servers.worker(work := Work(), fetch=hosts)
        job = at(queue, "http://a/1")
        eventually(lambda: hosts.asked)
        assert job.last == Progress(stage=Stage.QUEUED)
        assert (job.times.started, queue.position(job.id)) == (None, 0)
        hosts.let_go["http://a/1"].set()
        assert isinstance(ending(job), Succeeded)
        assert (hosts.asked, work.done) == (["http://a/1"], [b"1"])

    def test_a_slow_host_holds_up_nobody_else(self, servers: Servers, hosts: Hosts) -> None:
        queue = servers.worker(work := Work(), fetch=hosts)
        slow = [at(queue, f"http://slow/{n}") for n in range(MAX_CONCURRENT + 1)]
        others = [submit(queue, b"%d" % n) for n in range(5, 8)]
        for job in others:
            assert isinstance(ending(job), Succeeded)
        assert not any(job.done for job in slow)
        hosts.let_go["http://slow/1"].set()
        assert isinstance(ending(slow[1]), Succeeded)
        for url in ("http://slow/0", *(f"http://slow/{n}" for n in range(2, MAX_CONCURRENT + 1))):
            hosts.let_go[url].set()
        for job in slow:
            assert isinstance(ending(job), Succeeded)
        assert work.done[:4] == [b"5", b"6", b"7", b"1"]

    def test_a_job_keeps_its_place_while_its_photo_comes(
        self, servers: Servers, hosts: Hosts
    ) -> None:
        queue = servers.worker(work := Work(), fetch=hosts)
        eventually(reached(submit(queue, b"hold")))
        first, second = at(queue, "http://a/first"), submit(queue, b"second")
        hosts.let_go["http://a/first"].set()
        eventually(lambda: not queue._open_jobs.without_image())
        assert [queue.position(job.id) for job in (first, second)] == [1, 2]
        work.go.set()
        ending(second)
        assert work.done == [b"hold", b"first", b"second"]

    def test_few_at_once_and_in_the_order_of_the_line(self, servers: Servers, hosts: Hosts) -> None:
        queue = servers.worker(work := Work(), fetch=hosts)
        eventually(reached(submit(queue, b"hold")))
        urls = [f"http://a/{n}" for n in range(MAX_CONCURRENT)]
        jobs = [at(queue, url) for url in urls]
        jobs += [at(queue, "http://a/low", priority="low"), at(queue, "http://a/normal")]
        eventually(lambda: len(hosts.asked) == MAX_CONCURRENT)
        for url in (urls[2], "http://a/normal", "http://a/low", *urls):
            hosts.let_go[url].set()
            eventually(lambda url=url: url in hosts.asked)
        work.go.set()
        for job in jobs:
            assert isinstance(ending(job), Succeeded)
        assert sorted(hosts.asked[:MAX_CONCURRENT]) == urls
        assert hosts.asked[MAX_CONCURRENT:] == ["http://a/normal", "http://a/low"]
        assert hosts.most == MAX_CONCURRENT

    def test_what_cannot_be_fetched_fails_the_job(self, servers: Servers, hosts: Hosts) -> None:
        queue = servers.worker(work := Work(), fetch=hosts)
        job = at(queue, "http://a/bad", webhook="http://127.0.0.1:1/")
        hosts.let_go["http://a/bad"].set()
        assert str(failure(job)) == "There is no photo at that address."
        assert job.times.started is None
        outbox = Outbox(servers.table(), queue.refresh, lambda *_: None, poll_interval_s=0.01)
        assert outbox.delivery(job.id) is not None
        outbox.close()
        assert isinstance(ending(submit(queue, b"next")), Succeeded)
        assert (hosts.asked, work.done) == (["http://a/bad"], [b"next"])

    def test_cancelled_on_the_way(self, servers: Servers, hosts: Hosts) -> None:
        queue = servers.worker(work := Work(), fetch=hosts)
        jobs = [at(queue, "http://a/1"), at(queue, "http://a/bad")]
        eventually(lambda: len(hosts.asked) == 2)
        for job in jobs:
            assert job.cancel() is Cancellation.REMOVED
            assert ending(job) == Stopped()
        for url in hosts.asked:
            hosts.let_go[url].set()
        assert isinstance(ending(submit(queue, b"next")), Succeeded)
        eventually(lambda: not hosts.under_way)
        assert [servers.front().get(job.id).last for job in jobs] == [Stopped()] * 2
        assert work.done == [b"next"]

    def test_time_runs_meanwhile(self, servers: Servers, hosts: Hosts) -> None:
        queue = servers.worker(work := Work(), fetch=hosts)
        job = at(queue, "http://a/1", start_timeout_s=0.2)
        assert isinstance(failure(job), StartTimeout)
        hosts.let_go["http://a/1"].set()
        assert isinstance(ending(submit(queue, b"next")), Succeeded)
        assert work.done == [b"next"]

    def test_what_was_fetched_outlives_the_server(self, servers: Servers, hosts: Hosts) -> None:
        queue = servers.worker(Work(), fetch=hosts)
        eventually(reached(submit(queue, b"hold")))
        there, on_its_way = at(queue, "http://a/there"), at(queue, "http://a/slow")
        hosts.let_go["http://a/there"].set()
        eventually(lambda: len(queue._open_jobs.without_image()) == 1)
        hosts.let_go["http://a/slow"].clear()
        threading.Timer(0.3, hosts.let_go["http://a/slow"].set).start()
        queue.close()
        (again := Work()).go.set()
        after = servers.worker(again, fetch=hosts)
        for job in (there, on_its_way):
            assert isinstance(ending(after.get(job.id)), Succeeded)
        assert again.done == [b"hold", b"there", b"slow"]
        assert hosts.asked == ["http://a/there", "http://a/slow", "http://a/slow"]

    def test_a_table_out_of_reach_has_nobody_asked_twice(
        self, servers: Servers, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("svd_core.jobs.database.RETRY_S", 0.01)
        table = servers.table()
        for name in ("set_image", "end_waiting"):
            outcomes = [QueueUnavailable("Not now."), StorageFull("Full.")]
            change = getattr(table, name)

            def shaky(*args: object, outcomes=outcomes, change=change) -> object:  # type: ignore[no-untyped-def]
                if outcomes:
                    raise outcomes.pop()
                return change(*args)

            monkeypatch.setattr(table, name, shaky)
        queue = servers.worker(work := Work(), table=table, fetch=hosts)
        good, bad = at(queue, "http://a/1"), at(queue, "http://a/bad")
        for url in ("http://a/1", "http://a/bad"):
            hosts.let_go[url].set()
        assert isinstance(ending(good), Succeeded)
        assert isinstance(failure(bad), InvalidImage)
        assert (sorted(hosts.asked), work.done) == (["http://a/1", "http://a/bad"], [b"1"])

    def test_nothing_is_fetched_unless_somebody_says_how(self, servers: Servers) -> None:
        job = at(servers.worker(Work()), "http://example.org")
        assert isinstance(failure(job), InvalidImage)


class TestCancelling:
    def test_it_is_told_what_came_of_it(self, servers: Servers) -> None:
        queue = servers.worker(work := Work())
        runs = submit(queue, b"busy")
        eventually(reached(runs))
        waits = submit(queue, b"waits")
        assert [waits.cancel(), waits.cancel()] == [Cancellation.REMOVED, Cancellation.TOO_LATE]
        assert [runs.cancel(), runs.cancel()] == [Cancellation.REQUESTED, Cancellation.REQUESTED]
        work.go.set()
        assert ending(runs) == ending(waits) == Stopped()
        assert runs.cancel() is Cancellation.TOO_LATE
        assert (waits.times.started, waits.times.ended) != (None, None)
        assert work.done == []

    def test_a_job_of_another_server(self, servers: Servers) -> None:
        there, here = servers.worker(work := Work()), servers.front()
        runs = submit(there, b"hold")
        eventually(reached(runs))
        waits = submit(there, b"waits")
        assert here.get(waits.id).cancel() is Cancellation.REMOVED
        assert here.get(runs.id).cancel() is Cancellation.REQUESTED
        assert ending(runs) == ending(waits) == Stopped()
        assert ending(here.get(runs.id)) == ending(here.get(waits.id)) == Stopped()
        assert work.done == []


class TestNews:
    @pytest.mark.alone
    def test_only_what_is_new_comes_and_it_is_waited_for(self, servers: Servers) -> None:
        queue = servers.worker(work := Work())
        job = submit(queue, b"hold")
        eventually(reached(job))
        seen = job.events_since()[-1].number
        later = job.events_since(seen, timeout_s=5)
        assert [e.number > seen for e in later] == [True] * len(later) != []
        work.go.set()
        ending(job)
        last = job.events_since()[-1].number
        begin = time.monotonic()
        assert job.events_since(last) == []
        assert time.monotonic() - begin < 0.1
        assert job.events_since(last, timeout_s=0.2) == []
        assert 0.2 <= time.monotonic() - begin < 2

    def test_times_are_in_order_and_in_utc(self, servers: Servers) -> None:
        job = submit(servers.worker(Work()), b"")
        ending(job)
        times = job.times
        assert times.started is not None
        assert times.ended is not None
        assert times.submitted <= times.started <= times.ended
        assert abs(times.submitted.timestamp() - time.time()) < 60
        assert times.submitted.utcoffset() is not None


class TestManyServers:
    def test_no_job_is_run_twice_and_all_are_seen_by_all(self, servers: Servers) -> None:
        works = [Work(), Work()]
        queues = [
            servers.worker(work, QueueLimits(max_queue=100, poll_interval_s=0.05)) for work in works
        ]
        front = servers.front()
        jobs = [submit(queues[n % 2], b"%d" % n) for n in range(40)]
        for job in jobs:
            assert isinstance(ending(job), Succeeded)
            for queue in (*queues, front):
                eventually(lambda job=job, queue=queue: queue.get(job.id).done)
                assert ending(queue.get(job.id)) == ending(job)
        assert sorted(works[0].done + works[1].done) == sorted(b"%d" % n for n in range(40))
        for work in works:
            assert [int(n) for n in work.done] == sorted(int(n) for n in work.done)

    def test_all_see_one_line(self, servers: Servers) -> None:
        here, there = servers.worker(work := Work()), servers.front()
        jobs = [submit(here, b"hold")]
        eventually(reached(jobs[0]))
        for queue in (there, here, there):
            jobs.append(submit(queue, b""))
        for queue in (here, there):
            eventually(lambda queue=queue: queue.length() == 3)
            assert [queue.position(job.id) for job in jobs] == [0, 1, 2, 3]
        eventually(reached(there.get(jobs[0].id)))  # watchers there see the steps, too
        work.go.set()
        for job in jobs:
            assert isinstance(ending(there.get(job.id)), Succeeded)

    def test_who_shows_no_life_loses_the_job(self, servers: Servers) -> None:
        ghost = servers.table()
        queue = servers.worker(work := Work(), QueueLimits(lease_s=0.6, poll_interval_s=0.05))
        submit(queue, b"hold")
        job = submit(queue, b"lost")
        row = ghost.claim("ghost", job.id)
        assert row is not None
        work.go.set()
        for _ in range(5):  # it lives, slowly
            time.sleep(0.25)
            assert ghost.heartbeat(job.id, "ghost", row.record) is False
        assert b"lost" not in work.done
        assert isinstance(ending(job), Succeeded)
        assert b"lost" in work.done
        assert ghost.heartbeat(job.id, "ghost", row.record) is None
        assert ghost.end(job.id, "ghost", row.record, Stopped(), 0) is None
        assert isinstance(servers.front().get(job.id).last, Succeeded)

    def test_who_comes_too_late_with_a_result_changes_nothing(self, servers: Servers) -> None:
        ghost = servers.table()
        queue = servers.worker(work := Work())
        job = submit(queue, b"deaf")
        eventually(reached(job))
        while (row := ghost.get(job.id)) and not ghost.requeue_lost(job.id, row.version):
            pass  # a beat came between
        assert (row := ghost.claim("ghost", job.id))
        work.go.set()
        eventually(lambda: work.done)
        time.sleep(0.2)
        assert not queue.get(job.id).done
        row = ghost.end(job.id, "ghost", row.record, Failed(InvalidImage("From the ghost.")), 0)
        assert row is not None
        assert str(failure(queue.get(job.id))) == "From the ghost."

    def test_a_job_that_was_lost_may_come_back(self, servers: Servers) -> None:
        ghost = servers.table()
        queue = servers.worker(work := Work())
        job = submit(queue, b"hold")
        eventually(reached(job))
        while (row := ghost.get(job.id)) and not ghost.requeue_lost(job.id, row.version):
            pass  # a beat came between
        assert (row := ghost.claim("ghost", job.id))
        time.sleep(0.3)  # the work here has noticed, and stopped
        assert not job.done
        work.go.set()
        assert ghost.requeue_lost(job.id, row.version) is not None
        assert isinstance(ending(job), Succeeded)

    def test_jobs_whose_workers_die_again_and_again_fail(self, servers: Servers) -> None:
        table = servers.table()
        job = submit(servers.front(), b"")
        for attempt in range(1, 4):
            row = table.claim(f"ghost{attempt}")
            assert row is not None
            assert row.attempt == attempt
            assert table.requeue_lost(job.id, row.version) is not None
        assert table.claim("ghost4") is None
        assert "each of the 3 times" in str(failure(servers.front().get(job.id)))

    def test_who_was_heard_of_meanwhile_keeps_the_job(self, servers: Servers) -> None:
        table = servers.table()
        job = submit(servers.front(), b"")
        row = table.claim("slow")
        assert row is not None
        assert table.heartbeat(job.id, "slow", row.record) is False
        assert table.requeue_lost(job.id, row.version) is None
        assert table.end(job.id, "slow", row.record, Stopped(), 0) is not None

    def test_a_look_that_took_long_changes_nothing(self, servers: Servers) -> None:
        """Rows that were read before a change, and are shown after it."""
        table, queue = servers.table(), servers.front()
        first, second = submit(queue, b"1"), submit(queue, b"2")
        before = table.get_many([first.id, second.id])
        assert table.claim("worker", second.id) is not None
        eventually(lambda: second.times.started)
        first.cancel()
        for row in before:
            queue._open_jobs.upsert(row)
        assert queue.get(first.id).done
        assert queue.get(second.id).times.started is not None
        assert (queue.length(), queue.position(second.id)) == (0, 0)

    def test_a_wish_to_stop_outlives_the_worker(self, servers: Servers) -> None:
        table = servers.table()
        job = submit(servers.front(), b"")
        assert table.claim("ghost") is not None
        _, row = table.cancel(job.id)
        assert table.requeue_lost(job.id, row.version) is not None
        assert ending(servers.front().get(job.id)) == Stopped()

    def test_twenty_clients_at_once(self, servers: Servers) -> None:
        work = Work()
        here = servers.worker(work, QueueLimits(max_queue=150, poll_interval_s=0.05))
        there = servers.front(QueueLimits(max_queue=150, poll_interval_s=0.05))
        first = submit(here, b"hold")
        eventually(reached(first))
        accepted: list[list[tuple[bytes, Job]]] = [[] for _ in range(20)]
        refused: list[QueueFull] = []

        def client(number: int) -> None:
            for turn in range(10):
                name = b"%02d %d" % (number, turn)
                priority = "low" if turn % 2 else "normal"
                try:
                    job = submit((here, there)[number % 2], name, priority=priority)
                except QueueFull as error:
                    refused.append(error)
                else:
                    accepted[number].append((name, job))

        clients = [threading.Thread(target=client, args=(n,)) for n in range(20)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join(60)
        jobs = [entry for entries in accepted for entry in entries]
        assert len(jobs) == 150
        assert len(refused) == 50
        table = servers.table()
        rows = {job.id: table.get(job.id) for _, job in jobs}
        line = sorted(jobs, key=lambda entry: (rows[entry[1].id].rank, rows[entry[1].id].number))  # type: ignore[union-attr]
        assert [here.position(job.id) for _, job in line] == list(range(1, 151))
        for entries in accepted:  # what one client sends later goes later
            for rank in (0, 1):
                own = [rows[job.id].number for _, job in entries if rows[job.id].rank == rank]  # type: ignore[union-attr]
                assert own == sorted(own)
        work.go.set()
        for _, job in jobs:
            eventually(lambda job=job: job.done, 60)
            assert isinstance(job.last, Succeeded)
        assert work.done == [b"hold", *(name for name, _ in line)]


class TestMishaps:
    def test_a_begun_job_that_nobody_here_knows_of_is_begun_again(self, servers: Servers) -> None:
        """The table took the change, and the word of it was lost on the way."""
        queue = servers.worker(work := Work(), QueueLimits(lease_s=0.3, poll_interval_s=0.05))
        blocking, job = submit(queue, b"hold"), submit(queue, b"job")
        assert servers.table().claim(queue._claims.token, job.id) is not None
        work.go.set()
        assert isinstance(ending(job), Succeeded)
        assert isinstance(ending(blocking), Succeeded)

    def test_the_worker_outlives_what_nobody_foresaw(
        self, servers: Servers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        table, failed = servers.table(), threading.Event()
        claim = table.claim

        def broken(worker: str, job_id: str | None = None) -> object:
            if not failed.is_set():
                failed.set()
                raise ZeroDivisionError("secret")
            return claim(worker, job_id)

        monkeypatch.setattr(table, "claim", broken)
        monkeypatch.setattr("svd_core.jobs.worker.RETRY_S", 0.01)
        queue = servers.worker(Work(), table=table)
        assert isinstance(ending(submit(queue, b"1")), Succeeded)
        assert failed.is_set()
        assert "ZeroDivisionError: secret" in caplog.text

    def test_what_an_older_version_took_is_told_not_to_fit_any_more(self, servers: Servers) -> None:
        queue = servers.front()
        job, other = submit(queue, b"1"), submit(queue, b"2")
        with servers.table().database.write() as connection:
            old = update(JOBS).where(JOBS.c.id == job.id).values(params='{"fps": 1000000}')
            connection.execute(old)
        servers.worker(Work())
        assert "make it again" in str(failure(job))
        assert isinstance(ending(other), Succeeded)

    def test_a_database_that_drops_its_connections_is_taken_up_again(
        self, servers: Servers
    ) -> None:
        if not servers.url.startswith("postgresql"):
            pytest.skip("SQLite has no connections to drop")
        queue = servers.worker(work := Work())
        runs = submit(queue, b"hold")
        eventually(reached(runs))
        with servers.table().database.read() as connection:
            everybody = text(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            assert (connection.scalar(everybody) or 0) >= 1
        waits = submit(queue, b"waits")
        work.go.set()
        assert isinstance(ending(runs), Succeeded)
        assert isinstance(ending(waits), Succeeded)


class TestClocks:
    """An hour back, while the server runs, and while it is down."""

    def test_while_it_runs(self, servers: Servers) -> None:
        wall = [time.time()]
        table = servers.table(SteadyClock(lambda: wall[0]))
        queue = servers.worker(work := Work(), table=table)
        runs = submit(queue, b"hold")
        eventually(reached(runs))
        waits, late = submit(queue, b"waits"), submit(queue, b"late", start_timeout_s=0.5)
        wall[0] -= 3600
        after = submit(queue, b"after")
        assert after.times.submitted >= waits.times.submitted
        assert isinstance(failure(late), StartTimeout)
        work.go.set()
        for job in (runs, waits, after):
            assert isinstance(ending(job), Succeeded)
            assert job.times.started is not None
            assert job.times.ended is not None
            assert job.times.submitted <= job.times.started <= job.times.ended
        assert work.done == [b"hold", b"waits", b"after"]

    def test_while_it_is_down(self, servers: Servers) -> None:
        ahead = servers.table(SteadyClock(lambda: time.time() + 3600))
        jobs = []
        for name, timeout in ((b"lost", None), (b"waits", None), (b"late", 0.5)):
            row = ahead.new(name.hex(), VideoParams(seed=1), JobOptions(start_timeout_s=timeout))
            row = row.__class__(**vars(row) | {"image": servers.photos.put(name)})
            jobs.append(ahead.insert(row, (State.WAITING,), lambda *_: None))
        assert ahead.claim("ghost") is not None
        blocking = Work()
        queue = servers.worker(blocking, QueueLimits(lease_s=0.3, poll_interval_s=0.05))
        lost, waits, late = (queue.get(row.id) for row in jobs)
        for job in (waits, lost):
            assert isinstance(ending(job), Succeeded)
            assert job.times.started is not None
            assert job.times.ended is not None
            assert job.times.submitted <= job.times.started <= job.times.ended
        ending(late)  # begun or too late, but not an hour from now


class TestStarting:
    def test_the_folder_of_the_table_is_made(self, tmp_path: Path) -> None:
        place = tmp_path / "new" / "deeper"
        Database(f"sqlite:///{place / 'jobs.sqlite'}").close()
        assert place.is_dir()

    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            ("nonsense", "that address"),
            ("oracle+nothing://h/x", "nothing"),
            ("sqlite:////dev/null/x.sqlite", "/dev/null"),
            ("postgresql+psycopg://ann:s3cret@127.0.0.1:9/x", "refused"),
            ("mssql+pymssql://ann:s3cret@h/x", "pymssql"),
        ],
    )
    def test_a_table_that_cannot_be_had_stops_the_start(self, url: str, reason: str) -> None:
        with pytest.raises(InvalidSettings, match="SVD_DATABASE_URL") as caught:
            JobTable(Database(url))
        assert reason in str(caught.value)
        assert "s3cret" not in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_file_that_is_no_database_stops_the_start(self, tmp_path: Path) -> None:
        (tmp_path / "jobs.sqlite").write_text("not a database, but long enough to be read" * 9)
        with pytest.raises(InvalidSettings, match="not a database"):
            JobTable(Database(f"sqlite:///{tmp_path / 'jobs.sqlite'}"))

    def test_a_table_of_another_version_stops_the_start(
        self, servers: Servers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        servers.table()
        servers.table()
        monkeypatch.setattr("svd_core.jobs.schema.VERSION", 2)
        with pytest.raises(InvalidSettings, match="not of this version"):
            servers.table()

    def test_many_servers_may_start_at_once(self, servers: Servers) -> None:
        failed: list[BaseException] = []

        def start() -> None:
            try:
                servers.table()
            except BaseException as error:  # noqa: BLE001 - reported below
                failed.append(error)

        threads = [threading.Thread(target=start) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert failed == []


def test_jobs_at_hand_are_those_that_are_open_and_seen(servers: Servers) -> None:
    here, there = servers.front(), servers.front(QueueLimits(poll_interval_s=600))
    job = submit(here, b"")
    assert here.get_cached(job.id) is job
    assert there.get_cached(job.id) is None
    assert there.get(job.id) is there.get_cached(job.id)
    job.cancel()
    assert here.get_cached(job.id) is None


def test_an_unknown_job_is_told(servers: Servers) -> None:
    queue = servers.front()
    job = submit(queue, b"")
    with pytest.raises(UnknownJob):
        queue.get("0" * 32)
    with pytest.raises(UnknownJob):
        queue.get("'; DROP TABLE svd_jobs; --")
    assert queue.get(job.id).id == job.id
