"""The queue over the job table, in SQLite and, where a server is installed, in PostgreSQL."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest
from sqlalchemy import text, update

from svd_core.database import Database
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
    OnProgress,
    Progress,
    Stage,
    Stopped,
    Succeeded,
    Video,
)
from svd_core.jobs import (
    Cancellation,
    Job,
    JobOptions,
    JobQueue,
    JobTable,
    LocalExecutor,
    Outbox,
    QueueContext,
    QueueLimits,
    RemoteRequest,
    WorkerQueue,
)
from svd_core.jobs.interface import Fetch
from svd_core.jobs.queue import DEFAULT_LIMITS, no_fetch
from svd_core.jobs.schema import JOBS, VERSION, Row, create_tables
from svd_core.jobs.store import SteadyClock
from svd_core.jobs.worker import MAX_CONCURRENT
from svd_core.params import VideoParams, VideoRequest
from tests.fakes.errors import has_code
from tests.fakes.job_events import ending, eventually, failure, reached, submit
from tests.fakes.work import position, stored_photos


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
            raise InvalidImage("image_damaged")
        return Video(
            path=Path(f"/nowhere/{job_id}.mp4"), width=64, height=64, num_frames=2, fps=7, seed=1,
            model="fake", elapsed_s=0.1,
        )  # fmt: skip


Q = TypeVar("Q", bound=JobQueue)


def dead() -> NoReturn:
    raise QueueUnavailable("queue_unavailable")


@dataclass(frozen=True)
class Servers:
    """Starts servers on one table and one disk, one after the other, and stops them."""

    url: str
    folder: Path
    opened: list[Callable[[], None]] = field(default_factory=list)
    queues: list[JobQueue] = field(default_factory=list)

    def table(self, clock: SteadyClock | None = None) -> JobTable:
        database = Database(self.url)
        self.opened.append(database.close)
        create_tables(database)
        return JobTable(database, clock)

    def front(
        self, limits: QueueLimits = DEFAULT_LIMITS, table: JobTable | None = None
    ) -> JobQueue:
        """One without a worker, in place of the last one."""
        return self._start(JobQueue, limits, table)

    def worker(
        self,
        work: Work,
        limits: QueueLimits = DEFAULT_LIMITS,
        table: JobTable | None = None,
        fetch: Fetch = no_fetch,
        count: int = 1,
    ) -> WorkerQueue:
        """One with `count` workers, in place of the last one."""
        executors = [LocalExecutor(work) for _ in range(count)]
        queue = self._start(partial(WorkerQueue, executors), limits, table, fetch)
        self.opened.append(work.go.set)
        return queue

    def _start(
        self,
        make: Callable[[QueueContext], Q],
        limits: QueueLimits,
        table: JobTable | None,
        fetch: Fetch = no_fetch,
    ) -> Q:
        self.stop()
        table = table or self.table()
        queue = make(QueueContext(table, limits, fetch)).start()
        self.opened.append(queue.close)
        self.queues.append(queue)
        return queue

    def stop(self) -> None:
        """Close the server that runs."""
        while self.queues:
            self.queues.pop().close()

    def kill(self) -> None:
        """Leave the table as a server does that dies: its queue writes nothing more."""
        while self.queues:
            self.queues.pop().table.database.write = dead  # type: ignore[method-assign]

    @property
    def photos(self) -> list[bytes]:
        return stored_photos(self.table())


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
        assert [job.last.step for job in jobs] == [3, 1, 4, 2]  # type: ignore[union-attr]
        work.go.set()
        for job in jobs:
            ending(job)
        assert work.done == [b"hold", b"normal1", b"normal2", b"low1", b"low2"]

    def test_a_submitter_may_ask_for_a_short_line(self, servers: Servers) -> None:
        queue = servers.front()
        submit(queue, b"1", max_waiting=0)
        submit(queue, b"2", max_waiting=1)
        with pytest.raises(QueueFull, check=has_code("queue_full", count=2)):
            submit(queue, b"3", max_waiting=1)
        assert queue.length() == 2
        submit(queue, b"3")

    def test_nobody_may_fill_the_line_alone(self, servers: Servers) -> None:
        queue = servers.front(QueueLimits(max_queue=4, max_per_owner=2))
        first, *_ = [submit(queue, b"", owner="ann") for _ in range(2)]
        with pytest.raises(QueueFull, check=has_code("owner_queue_full", count=2)):
            submit(queue, b"", owner="ann")
        submit(queue, b"", owner="bob")
        first.cancel()
        submit(queue, b"", owner="ann")
        submit(queue, b"")
        with pytest.raises(QueueFull, check=has_code("queue_full", count=4)):
            submit(queue, b"")

    def test_who_is_refused_fills_no_disk(self, servers: Servers) -> None:
        queue = servers.front(QueueLimits(max_queue=1))
        submit(queue, b"1")
        with pytest.raises(QueueFull):
            submit(queue, b"2")
        assert servers.photos == [b"1"]

    def test_running_jobs_take_no_place_in_line(self, servers: Servers) -> None:
        queue = servers.worker(Work(), QueueLimits(max_queue=1, max_per_owner=1))
        eventually(reached(submit(queue, b"hold", owner="ann")))
        submit(queue, b"", owner="ann")
        with pytest.raises(QueueFull):
            submit(queue, b"", owner="bob")

    def test_a_job_that_is_not_started_in_time_fails(self, servers: Servers) -> None:
        queue = servers.worker(work := Work())
        blocking = submit(queue, b"hold", start_timeout_s=0.6)
        eventually(reached(blocking))
        late, patient = submit(queue, b"late", start_timeout_s=0.3), submit(queue, b"patient")
        error = failure(late)
        assert isinstance(error, StartTimeout)
        assert error.status == 504
        assert late.times.started is None
        assert late.times.ended is not None
        assert 0.3 <= (late.times.ended - late.times.submitted).total_seconds() < 5
        time.sleep(0.7)
        assert not blocking.done  # it was started in time
        work.go.set()
        assert isinstance(ending(patient), Succeeded)
        assert work.done == [b"hold", b"patient"]

    def test_time_runs_on_while_the_server_is_down(self, servers: Servers) -> None:
        late = submit(servers.front(), b"late", start_timeout_s=0.3)
        servers.kill()
        assert isinstance(failure(servers.front().get(late.id)), StartTimeout)

    def test_a_job_whose_time_is_up_is_not_begun_in_the_last_moment(
        self, servers: Servers, hosts: "Hosts"
    ) -> None:
        wall = [1000.0]
        table = servers.table(SteadyClock(lambda: wall[0], lambda: 0.0))
        queue = servers.worker(work := Work(), table=table, fetch=hosts)
        job = at(queue, "http://a/1", start_timeout_s=5)
        eventually(lambda: hosts.asked)
        wall[0] += 5
        hosts.let_go["http://a/1"].set()
        assert isinstance(failure(job), StartTimeout)
        assert isinstance(ending(submit(queue, b"next")), Succeeded)
        assert work.done == [b"next"]

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
        job = queue.reject(
            InvalidRequest("link_repeats_setting", field="fps"), JobOptions(memo="x")
        )
        for found in (job, queue.get(job.id), servers.front().get(job.id)):
            error = failure(found)
            assert type(error) is InvalidRequest
            assert has_code("link_repeats_setting", field="fps")(error)
            assert (error.field, error.status) == ("fps", 422)
            assert found.params is None
            assert found.options.memo == "x"
            assert found.times.started is None
            assert found.times.ended is not None
            assert found.cancel() is Cancellation.TOO_LATE
        assert queue.length() == position(job) == 0

    def test_rejected_jobs_take_no_place_and_are_never_run(self, servers: Servers) -> None:
        queue = servers.worker(work := Work(), QueueLimits(max_queue=1))
        for _ in range(3):
            queue.reject(InvalidRequest("link_repeats_setting", field="fps"))
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
            raise InvalidImage("image_empty", formats=["JPEG"])
        return url.rpartition("/")[2].encode()


def at(queue: JobQueue, url: str, **options: object) -> Job:
    request = RemoteRequest(url, VideoParams(seed=1))
    return queue.submit(request, JobOptions(**options))  # type: ignore[arg-type]


def without_photo(queue: JobQueue) -> list[Job]:
    return [job for job in queue._open_jobs.line() if job.row.image is None]


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
        assert (job.times.started, position(job)) == (None, 0)
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
        eventually(lambda: not without_photo(queue))
        assert [position(job) for job in (first, second)] == [1, 2]
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
        assert failure(job).code == "image_empty"
        assert job.times.started is None
        outbox = Outbox(servers.table(), queue.get, lambda *_: None, poll_interval_s=0.01)
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
        eventually(lambda: len(without_photo(queue)) == 1)
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
        for place in ("database", "jobs.worker"):
            monkeypatch.setattr(f"svd_core.{place}.RETRY_S", 0.01)
        table = servers.table()
        outcomes = [QueueUnavailable("queue_unavailable"), StorageFull("database_disk_full")] * 2
        update = table.update

        def shaky(*args: Any) -> Any:
            if outcomes:
                raise outcomes.pop()
            return update(*args)

        monkeypatch.setattr(table, "update", shaky)
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


class TestNews:
    def test_only_what_is_new_comes(self, servers: Servers) -> None:
        queue = servers.worker(work := Work())
        job = submit(queue, b"hold")
        eventually(reached(job))
        seen = job.events_since()[-1].number
        eventually(lambda: job.events_since(seen))
        assert all(e.number > seen for e in job.events_since(seen))
        work.go.set()
        ending(job)
        assert job.events_since(job.events_since()[-1].number) == []

    def test_times_are_in_order_and_in_utc(self, servers: Servers) -> None:
        job = submit(servers.worker(Work()), b"")
        ending(job)
        times = job.times
        assert times.started is not None
        assert times.ended is not None
        assert times.submitted <= times.started <= times.ended
        assert abs(times.submitted.timestamp() - time.time()) < 60
        assert times.submitted.utcoffset() is not None


class TestManyWorkers:
    def test_no_job_is_run_twice_and_they_begin_in_order(self, servers: Servers) -> None:
        work = Work()
        queue = servers.worker(work, QueueLimits(max_queue=100), count=3)
        jobs = [submit(queue, b"%d" % n) for n in range(40)]
        for job in jobs:
            assert isinstance(ending(job), Succeeded)
        assert sorted(work.done) == sorted(b"%d" % n for n in range(40))
        started = [job.times.started for job in jobs]
        assert started == sorted(started)  # type: ignore[type-var]

    def test_twenty_clients_at_once(self, servers: Servers) -> None:
        work = Work()
        queue = servers.worker(work, QueueLimits(max_queue=150))
        first = submit(queue, b"hold")
        eventually(reached(first))
        accepted: list[list[tuple[bytes, Job]]] = [[] for _ in range(20)]
        refused: list[QueueFull] = []

        def client(number: int) -> None:
            for turn in range(10):
                name = b"%02d %d" % (number, turn)
                priority = "low" if turn % 2 else "normal"
                try:
                    job = submit(queue, name, priority=priority)
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
        assert [job.last.step for _, job in line] == list(range(1, 151))  # type: ignore[union-attr]
        for entries in accepted:  # what one client sends later goes later
            for rank in (0, 1):
                own = [rows[job.id].number for _, job in entries if rows[job.id].rank == rank]  # type: ignore[union-attr]
                assert own == sorted(own)
        work.go.set()
        for _, job in jobs:
            eventually(lambda job=job: job.done, 60)
            assert isinstance(job.last, Succeeded)
        assert work.done == [b"hold", *(name for name, _ in line)]


class TestRestart:
    """What a server that was killed leaves behind; `tests/jobs/test_faults.py` kills real ones."""

    def test_order_and_attempts_stay(self, servers: Servers) -> None:
        queue = servers.worker(Work())
        jobs = [submit(queue, b"hold")]
        eventually(reached(jobs[0]))
        jobs += [submit(queue, name, priority="low") for name in (b"low1", b"low2")]
        jobs.insert(1, submit(queue, b"normal"))
        servers.kill()
        (again := Work()).go.set()
        after = servers.worker(again)
        for job in jobs:
            assert isinstance(ending(after.get(job.id)), Succeeded)
        assert again.done == [b"hold", b"normal", b"low1", b"low2"]
        rows = {row.id: row.attempt for row in servers.table().get_many([j.id for j in jobs])}
        assert [rows[job.id] for job in jobs] == [2, 1, 1, 1]

    def test_numbers_of_events_never_go_back(self, servers: Servers) -> None:
        """Progress is in memory only, and a client that has seen it polls for what comes after."""
        queue = servers.worker(work := Work())
        runs = submit(queue, b"hold")
        eventually(lambda: runs.events_since()[-1].number > 50)
        waiting = [submit(queue, b"hold") for _ in range(4)]
        for job in waiting[:-1]:
            job.cancel()
        waits = waiting[-1]
        for _ in range(3):
            seen = [job.events_since()[-1].number for job in (runs, waits)]
            servers.kill()
            queue = servers.worker(work)
            runs, waits = queue.get(runs.id), queue.get(waits.id)
            for job, number in zip((runs, waits), seen, strict=True):
                eventually(lambda job=job, number=number: job.events_since(number))
        work.go.set()
        seen = [job.events_since()[-1].number for job in (runs, waits)]
        for job, number in zip((runs, waits), seen, strict=True):
            ending(job)
            stored = servers.table().get(job.id)
            assert stored is not None
            assert stored.record[-1].number >= number

    def test_jobs_whose_server_dies_again_and_again_fail(self, servers: Servers) -> None:
        job, work = submit(servers.front(), b"hold"), Work()
        for attempt in range(1, 4):
            queue = servers.worker(work)
            eventually(reached(queue.get(job.id)))
            row = servers.table().get(job.id)
            assert row is not None
            assert row.attempt == attempt
            servers.kill()
        assert has_code("crash_loop", count=3)(failure(servers.front().get(job.id)))
        assert servers.photos == []

    def test_a_wish_to_stop_outlives_the_server(self, servers: Servers) -> None:
        job = submit(servers.worker(Work()), b"deaf")
        eventually(reached(job))
        assert job.cancel() is Cancellation.REQUESTED
        servers.kill()
        assert ending(servers.front().get(job.id)) == Stopped()

    def test_work_that_outlives_its_server_changes_nothing(self, servers: Servers) -> None:
        """A server that stops does not wait for work that never looks up."""
        deaf = Work()
        first = servers.worker(deaf, QueueLimits(shutdown_timeout_s=0.05))
        job = submit(first, b"deaf")
        eventually(reached(job))
        (again := Work()).go.set()
        found = servers.worker(again).get(job.id)
        assert isinstance(ending(found), Succeeded)
        deaf.go.set()
        eventually(lambda: deaf.done)
        first._threads[0].join(30)
        row = servers.table().get(job.id)
        assert row is not None
        assert row.attempt == 1


class TestMishaps:
    @pytest.mark.parametrize("lost", ["begin", "end"])
    def test_an_answer_of_the_table_that_is_lost_loses_no_job(
        self, servers: Servers, monkeypatch: pytest.MonkeyPatch, lost: str
    ) -> None:
        """The table took the change, and the word of it was lost on the way."""
        for place in ("database", "jobs.worker"):
            monkeypatch.setattr(f"svd_core.{place}.RETRY_S", 0.01)
        queue = servers.worker(work := Work())
        on_change, heard = queue.table.on_change, []

        def forgetful(row: Row) -> None:
            heard.append(row)
            if len(heard) == {"begin": 2, "end": 3}[lost]:  # the first one is submitted
                raise QueueUnavailable("queue_unavailable")
            on_change(row)

        work.go.set()
        queue.table.on_change = forgetful
        outbox = Outbox(queue.table, queue.get, lambda *_: None, poll_interval_s=0.01)
        job = submit(queue, b"1", webhook="http://127.0.0.1:1/")
        assert isinstance(ending(job), Succeeded)
        eventually(lambda: outbox.delivery(job.id))
        outbox.close()
        assert work.done == [b"1"]
        row = servers.table().get(job.id)
        assert row is not None
        assert row.attempt == 1

    def test_the_worker_outlives_what_nobody_foresaw(
        self, servers: Servers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        table, failed = servers.table(), threading.Event()
        update = table.update

        def broken(*args: Any) -> Any:
            if not failed.is_set():
                failed.set()
                raise ZeroDivisionError("secret")
            return update(*args)

        monkeypatch.setattr(table, "update", broken)
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
        after = servers.worker(Work())
        assert "make it again" in str(failure(after.get(job.id)))
        assert isinstance(ending(after.get(other.id)), Succeeded)

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
        before = servers.worker(Work(), table=ahead)
        lost = submit(before, b"hold")
        eventually(reached(lost))
        ids = [lost.id, submit(before, b"waits").id]
        late = submit(before, b"late", start_timeout_s=0.5)
        servers.kill()
        (work := Work()).go.set()
        queue = servers.worker(work)
        for job in map(queue.get, ids):
            assert isinstance(ending(job), Succeeded)
            assert job.times.started is not None
            assert job.times.ended is not None
            assert job.times.submitted <= job.times.started <= job.times.ended
        ending(queue.get(late.id))  # begun or too late, but not an hour from now

    def test_a_start_timeout_is_not_an_hour_longer_after_it(self, servers: Servers) -> None:
        ahead = servers.table(SteadyClock(lambda: time.time() + 3600))
        late = submit(servers.front(table=ahead), b"late", start_timeout_s=0.5)
        servers.kill()
        assert isinstance(failure(servers.front().get(late.id)), StartTimeout)


class TestStarting:
    def test_the_folder_of_the_table_is_made(self, tmp_path: Path) -> None:
        place = tmp_path / "new" / "deeper"
        Database(f"sqlite:///{place / 'jobs.sqlite'}").close()
        assert place.is_dir()

    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            ("nonsense", "at SVD_DATABASE_URL"),
            ("oracle+nothing://h/x", "nothing"),
            ("sqlite:////dev/null/x.sqlite", "/dev/null"),
            ("postgresql+psycopg://ann:s3cret@127.0.0.1:9/x", "refused"),
            ("mssql+pymssql://ann:s3cret@h/x", "pymssql"),
        ],
    )
    def test_a_table_that_cannot_be_had_stops_the_start(self, url: str, reason: str) -> None:
        with pytest.raises(InvalidSettings, match="SVD_DATABASE_URL") as caught:
            create_tables(Database(url))
        assert reason in str(caught.value)
        assert "s3cret" not in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_file_that_is_no_database_stops_the_start(self, tmp_path: Path) -> None:
        (tmp_path / "jobs.sqlite").write_text("not a database, but long enough to be read" * 9)
        with pytest.raises(InvalidSettings, match="not a database"):
            create_tables(Database(f"sqlite:///{tmp_path / 'jobs.sqlite'}"))

    def test_a_table_of_a_newer_version_stops_the_start(
        self, servers: Servers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as newer:
            newer.setattr("svd_core.jobs.schema.VERSION", VERSION + 1)
            servers.table()
        with pytest.raises(InvalidSettings, check=has_code("database_too_new")):
            servers.table()


def test_jobs_at_hand_are_those_that_are_open(servers: Servers) -> None:
    queue = servers.front()
    job = submit(queue, b"")
    assert queue.get_cached(job.id) is queue.get(job.id) is job
    job.cancel()
    assert queue.get_cached(job.id) is None
    assert queue.get(job.id).done


def test_an_unknown_job_is_told(servers: Servers) -> None:
    queue = servers.front()
    job = submit(queue, b"")
    with pytest.raises(UnknownJob):
        queue.get("0" * 32)
    with pytest.raises(UnknownJob):
        queue.get("'; DROP TABLE svd_jobs; --")
    assert queue.get(job.id).id == job.id
