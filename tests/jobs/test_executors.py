"""The queue drives several executors at once, and none of their errors loses a job or a thread."""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from svd_core.errors import GenerationFailed, ModelUnavailable
from svd_core.events import Event, Failed, Progress, Stage, Stopped, Succeeded, Video
from svd_core.jobs import Cancellation, ExecutorLost, Job, QueueContext, QueueLimits, WorkerQueue
from svd_core.jobs.schema import State
from svd_core.jobs.store import MAX_ATTEMPTS
from svd_core.params import VideoRequest
from tests.fakes.errors import has_code
from tests.fakes.job_events import SECONDS, ending, eventually, failure, reached, submit
from tests.fakes.work import open_table, position

STEP = Progress(stage=Stage.DENOISING, step=1, total=2)


@dataclass
class FakeExecutor:
    """Yields a step until `go`, or None if it is `silent`; then the video. `faults`: raised by the
    next runs after a step."""

    go: threading.Event = field(default_factory=threading.Event)
    faults: list[Exception] = field(default_factory=list)
    silent: bool = False
    refusals: list[Exception] = field(default_factory=list)
    """Raised by the next calls of `prepare`."""
    is_ready: threading.Event = field(default_factory=threading.Event)
    """While it is clear, `prepare` waits."""
    is_preparing: bool = False
    prepared: list[bool] = field(default_factory=list)
    begun: list[bytes] = field(default_factory=list)
    running: str | None = None
    closed: bool = False

    def __post_init__(self) -> None:
        self.is_ready.set()

    def prepare(self, is_needed: Callable[[], bool]) -> bool:
        self.is_preparing = True
        if self.refusals:
            raise self.refusals.pop(0)
        while not self.is_ready.wait(0.005):
            if not is_needed():
                self.prepared.append(False)
                return False
        self.prepared.append(True)
        return True

    def run(self, job_id: str, request: VideoRequest) -> Generator[Event | None]:
        self.begun.append(request.image)
        self.running = job_id
        try:
            yield STEP
            if self.faults:
                raise self.faults.pop(0)
            while not self.go.wait(0.005):
                yield None if self.silent else STEP
            yield Succeeded(video(job_id))
        finally:
            self.running = None

    def close(self) -> None:
        self.closed = True


def video(job_id: str) -> Video:
    return Video(
        path=Path(f"/nowhere/{job_id}.mp4"), width=64, height=64, num_frames=2, fps=7, seed=1,
        model="fake", elapsed_s=0.1,
    )  # fmt: skip


@contextmanager
def driving(folder: Path, *executors: FakeExecutor, stop_s: float = 10.0) -> Iterator[WorkerQueue]:
    limits = QueueLimits(shutdown_timeout_s=stop_s)
    with (
        open_table(folder) as table,
        closing(WorkerQueue(executors, QueueContext(table, limits)).start()) as queue,
    ):
        yield queue


def notes(job: Job) -> list[str]:
    return [e.event.note or "" for e in job.events_since() if isinstance(e.event, Progress)]


def attempts(queue: WorkerQueue, job: Job) -> int:
    row = queue.table.get(job.id)
    assert row is not None
    return row.attempt


def test_a_job_is_cancelled_while_its_worker_is_silent(tmp_path: Path) -> None:
    executor = FakeExecutor(silent=True)
    with driving(tmp_path, executor) as queue:
        job = submit(queue, b"")
        eventually(reached(job))
        numbers = [entry.number for entry in job.events_since()]
        eventually(lambda: executor.running)
        assert [entry.number for entry in job.events_since()] == numbers, "silence is no event"
        assert job.cancel() is Cancellation.REQUESTED
        assert isinstance(ending(job), Stopped)
        assert executor.running is None


def test_each_executor_has_a_job_of_its_own(tmp_path: Path) -> None:
    pool = [FakeExecutor() for _ in range(3)]
    with driving(tmp_path, *pool) as queue:
        jobs = [submit(queue, b"%d" % n) for n in range(5)]
        eventually(lambda: all(executor.running for executor in pool))
        assert {executor.running for executor in pool} == {job.id for job in jobs[:3]}
        assert [position(job) for job in jobs] == [0, 0, 0, 3, 4]
        pool[1].go.set()  # the others stay where they are
        assert [ending(job) for job in jobs[3:]] == [Succeeded(video(job.id)) for job in jobs[3:]]
        assert sum(job.done for job in jobs) == 3
        for executor in pool:
            executor.go.set()
        assert all(isinstance(ending(job), Succeeded) for job in jobs)
    assert sorted(image for executor in pool for image in executor.begun) == [
        b"%d" % n for n in range(5)
    ]
    assert all(executor.closed for executor in pool)


def test_the_job_of_a_lost_worker_goes_first_again(tmp_path: Path) -> None:
    executor = FakeExecutor(faults=[ExecutorLost("The node died.")])
    with driving(tmp_path, executor) as queue:
        first, second = submit(queue, b"1"), submit(queue, b"2")
        eventually(lambda: executor.begun == [b"1", b"1"])
        assert attempts(queue, first) == 2
        assert any("attempt 2 of 3" in note for note in notes(first))
        executor.go.set()
        assert isinstance(ending(first), Succeeded)
        assert isinstance(ending(second), Succeeded)
    assert executor.begun == [b"1", b"1", b"2"]


def test_a_job_whose_worker_is_lost_each_time_fails_readably(tmp_path: Path) -> None:
    executor = FakeExecutor(faults=[ExecutorLost("The node died.")] * MAX_ATTEMPTS)
    executor.go.set()
    with driving(tmp_path, executor) as queue:
        job, innocent = submit(queue, b"1"), submit(queue, b"2")
        error = failure(job)
        assert isinstance(error, GenerationFailed)
        assert has_code("crash_loop", count=3)(error)
        assert isinstance(ending(innocent), Succeeded)
    assert executor.begun == [b"1"] * MAX_ATTEMPTS + [b"2"]


def test_a_worker_that_was_taken_away_costs_no_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svd_core.jobs.worker.RETRY_S", 0.01)
    times = MAX_ATTEMPTS + 2
    executor = FakeExecutor(faults=[ExecutorLost("Drained.", counted=False)] * times)
    with driving(tmp_path, executor) as queue:
        job = submit(queue, b"1")
        eventually(lambda: len(executor.begun) == times + 1)
        assert attempts(queue, job) == 1
        assert any("taken away" in note for note in notes(job))
        executor.go.set()
        assert isinstance(ending(job), Succeeded)


def test_another_executor_takes_over_the_job_of_a_lost_one(tmp_path: Path) -> None:
    class Losing(FakeExecutor):
        def run(self, job_id: str, request: VideoRequest) -> Generator[Event]:
            self.is_ready.clear()  # no other worker comes here
            raise ExecutorLost("The node died.")
            yield

    lost, other = Losing(), FakeExecutor()
    other.is_ready.clear()
    other.go.set()
    with driving(tmp_path, lost, other) as queue:
        job = submit(queue, b"1")
        eventually(lambda: any("attempt 2 of 3" in note for note in notes(job)))
        other.is_ready.set()
        assert isinstance(ending(job), Succeeded)
        assert attempts(queue, job) == 2
    assert other.begun == [b"1"]


def test_cancelling_stops_the_work_at_its_next_event(tmp_path: Path) -> None:
    executor = FakeExecutor()
    with driving(tmp_path, executor) as queue:
        job = submit(queue, b"1")
        eventually(reached(job))
        assert job.cancel() is Cancellation.REQUESTED
        assert ending(job) == Stopped()
        assert executor.running is None


def test_a_cancelled_job_whose_worker_is_lost_is_stopped(tmp_path: Path) -> None:
    class Lost(FakeExecutor):
        def run(self, job_id: str, request: VideoRequest) -> Generator[Event]:
            yield STEP
            assert self.go.wait(SECONDS)
            raise ExecutorLost("The node died.")

    executor = Lost()
    with driving(tmp_path, executor) as queue:
        job = submit(queue, b"1")
        eventually(reached(job))
        job.cancel()
        executor.go.set()
        assert ending(job) == Stopped()


def test_closing_stops_all_work_and_puts_it_back_without_counting(tmp_path: Path) -> None:
    pool = [FakeExecutor(), FakeExecutor()]
    with driving(tmp_path, *pool) as queue:
        jobs = [submit(queue, b"1"), submit(queue, b"2"), submit(queue, b"3")]
        eventually(lambda: all(executor.running for executor in pool))
        queue.close()
        assert [executor.running for executor in pool] == [None, None]
        assert [executor.closed for executor in pool] == [True, True]
    with open_table(tmp_path) as table:
        rows = sorted(table.get_many([job.id for job in jobs]), key=lambda row: row.number)
    assert [(row.id, row.state, row.attempt) for row in rows] == [
        (job.id, State.WAITING, 0) for job in jobs
    ]


def test_a_worker_lost_while_the_queue_closes_costs_no_attempt(tmp_path: Path) -> None:
    class Dying(FakeExecutor):
        def run(self, job_id: str, request: VideoRequest) -> Generator[Event]:
            yield STEP
            assert self.go.wait(SECONDS)
            raise ExecutorLost("The node died.")

    executor = Dying()
    with driving(tmp_path, executor) as queue:
        job = submit(queue, b"1")
        eventually(reached(job))
        closing = threading.Thread(target=queue.close)
        closing.start()
        eventually(lambda: queue._closing.is_set())
        executor.go.set()
        closing.join(SECONDS)
    with open_table(tmp_path) as table:
        row = table.get(job.id)
    assert row is not None
    assert (row.state, row.attempt) == (State.WAITING, 0)


def test_an_executor_stops_getting_ready_when_no_job_waits(tmp_path: Path) -> None:
    executor = FakeExecutor()
    executor.is_ready.clear()
    with driving(tmp_path, executor) as queue:
        time.sleep(0.1)
        assert not executor.is_preparing  # nothing waits, so no machine starts
        job = submit(queue, b"1")
        eventually(lambda: executor.is_preparing)
        assert job.cancel() is Cancellation.REMOVED
        eventually(lambda: executor.prepared == [False])
        executor.is_ready.set()
        executor.go.set()
        assert isinstance(ending(submit(queue, b"2")), Succeeded)
    assert executor.begun == [b"2"]


def test_an_executor_stops_getting_ready_when_the_queue_closes(tmp_path: Path) -> None:
    executor = FakeExecutor()
    executor.is_ready.clear()
    with driving(tmp_path, executor) as queue:
        job = submit(queue, b"1")
        eventually(lambda: executor.is_preparing)
        queue.close()
        assert not job.done
    assert (executor.prepared, executor.begun) == ([False], [])


def test_if_no_worker_can_ever_run_jobs_the_first_in_line_says_why(tmp_path: Path) -> None:
    executor = FakeExecutor(refusals=[ModelUnavailable("hub_rate_limited", model="svd-xt")])
    executor.go.set()
    with driving(tmp_path, executor) as queue:
        jobs = [submit(queue, b"1"), submit(queue, b"2")]
        assert has_code("hub_rate_limited", model="svd-xt")(failure(jobs[0]))
        assert isinstance(ending(jobs[1]), Succeeded)
    assert executor.begun == [b"2"]


def test_no_error_of_an_executor_ends_its_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("svd_core.jobs.worker.RETRY_S", 0.01)
    executor = FakeExecutor(refusals=[ZeroDivisionError("early")], faults=[KeyError("late")])
    executor.go.set()
    with driving(tmp_path, executor) as queue:
        first, second = submit(queue, b"1"), submit(queue, b"2")
        assert isinstance(failure(first), GenerationFailed)
        assert isinstance(ending(second), Succeeded)
    assert "ZeroDivisionError: early" in caplog.text
    assert "KeyError: 'late'" in caplog.text
    assert executor.begun == [b"1", b"2"]


def test_a_stream_without_an_outcome_is_a_failure(tmp_path: Path) -> None:
    class Silent(FakeExecutor):
        def run(self, job_id: str, request: VideoRequest) -> Generator[Event]:
            yield STEP

    with driving(tmp_path, Silent()) as queue:
        end = ending(submit(queue, b"1"))
    assert isinstance(end, Failed)
    assert isinstance(end.error, GenerationFailed)


def test_work_that_never_looks_up_is_put_back_when_the_queue_closes(tmp_path: Path) -> None:
    class Deaf(FakeExecutor):
        def run(self, job_id: str, request: VideoRequest) -> Generator[Event]:
            self.running = job_id
            assert self.go.wait(SECONDS)
            yield Succeeded(video(job_id))

    executor = Deaf()
    with driving(tmp_path, executor, stop_s=0.05) as queue:
        job = submit(queue, b"1")
        eventually(lambda: executor.running)
        queue.close()
        executor.go.set()
        eventually(lambda: "svd-worker" not in [t.name for t in threading.enumerate()])
        row = queue.table.get(job.id)
    assert row is not None
    assert (row.state, row.attempt) == (State.WAITING, 0)
