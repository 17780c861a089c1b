"""Queues: every job ends by exactly one ending, whatever is submitted, cancelled or closed when."""

import gc
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from svd_core.errors import (
    Cancelled,
    GenerationFailed,
    InvalidImage,
    OutOfMemory,
    QueueFull,
    ServerStopping,
    UnknownJob,
)
from svd_core.events import (
    Event,
    Failed,
    OnProgress,
    Progress,
    Stage,
    Stopped,
    Succeeded,
    Video,
)
from svd_core.jobs import InlineQueue, Job, JobQueue, LocalQueue
from svd_core.jobs.ticket import STOPPING
from svd_core.params import VideoParams, VideoRequest


def a_request(image: bytes = b"photo") -> VideoRequest:
    return VideoRequest(image, VideoParams(seed=1))


def a_video(job_id: str) -> Video:
    return Video(
        path=Path(f"{job_id}.mp4"),
        width=64,
        height=64,
        num_frames=2,
        fps=7,
        seed=1,
        model="fake",
        elapsed_s=0.1,
    )


def make(job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
    """Does what the photo's bytes say."""
    on_progress(Progress(stage=Stage.ENCODING))
    if request.image == b"bad":
        raise InvalidImage("The photo is broken; please send another one.")
    if request.image == b"crash":
        raise ZeroDivisionError("secret detail")
    return a_video(job_id)


def denoise(job_id: str, request: VideoRequest) -> Generator[Progress | Video]:
    for step in range(3):
        yield Progress(stage=Stage.DENOISING, step=step, total=3)
    yield make(job_id, request, lambda progress: None)


class Gate:
    """Work that goes on only when the test says so."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.go = threading.Event()

    def __call__(self, job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        step = 0
        self.started.set()
        while not self.go.wait(0.002):
            on_progress(Progress(stage=Stage.DENOISING, step=(step := step + 1), total=0))
        return make(job_id, request, on_progress)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def local(gate: Gate) -> Iterator[LocalQueue]:
    queue = LocalQueue(gate, max_queue=2)
    yield queue
    gate.go.set()
    queue.close()


def ending(job: Job) -> Event:
    """The job's only ending, after checking that nothing but progress came before it."""
    events: list[Event] = []
    watcher = threading.Thread(target=lambda: events.extend(job.events()), daemon=True)
    watcher.start()
    watcher.join(5)
    assert not watcher.is_alive(), "the job never ended"
    *before, last = events
    assert before
    assert all(isinstance(event, Progress) for event in before)
    assert isinstance(last, Succeeded | Failed | Stopped)
    assert job.done
    assert job.last == last
    return last


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.002)


QUEUES: list[Callable[[], JobQueue]] = [
    lambda: LocalQueue(make, 2),
    lambda: InlineQueue(denoise, 2),
]


@pytest.fixture(params=QUEUES, ids=["local", "inline"])
def queue(request: pytest.FixtureRequest) -> Iterator[JobQueue]:
    queue: JobQueue = request.param()
    yield queue
    queue.close()


def test_a_job_ends_with_its_video(queue: JobQueue) -> None:
    job = queue.submit(a_request())
    assert ending(job) == Succeeded(a_video(job.id))
    assert queue.get(job.id) is job
    assert queue.position(job.id) == 0
    assert job.params.seed == 1


def test_events_can_be_replayed_after_the_end(queue: JobQueue) -> None:
    job = queue.submit(a_request())
    first = ending(job)
    assert ending(job) == first


def test_a_known_error_reaches_the_user_word_for_word(queue: JobQueue) -> None:
    end = ending(queue.submit(a_request(b"bad")))
    assert isinstance(end, Failed)
    assert str(end.error) == "The photo is broken; please send another one."


def test_an_unforeseen_error_is_logged_with_the_job_and_not_shown(
    queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    job = queue.submit(a_request(b"crash"))
    end = ending(job)
    assert isinstance(end, Failed)
    assert isinstance(end.error, GenerationFailed)
    assert "secret" not in str(end.error)
    assert job.id[:8] in str(end.error)
    assert job.id in caplog.text
    assert "ZeroDivisionError: secret detail" in caplog.text


def test_the_queue_works_on_after_a_failure(queue: JobQueue) -> None:
    ending(queue.submit(a_request(b"crash")))
    assert isinstance(ending(queue.submit(a_request())), Succeeded)


def test_an_unknown_id_is_said_to_be_unknown(queue: JobQueue) -> None:
    for ask in (queue.get, queue.position):
        with pytest.raises(UnknownJob, match="make the video again"):
            ask("no such job")


def test_a_closed_queue_takes_nothing_and_closes_twice(queue: JobQueue) -> None:
    queue.close()
    queue.close()
    with pytest.raises(ServerStopping, match="stopping"):
        queue.submit(a_request())


def test_waiting_jobs_hear_how_many_go_before_them(local: LocalQueue, gate: Gate) -> None:
    first, second, third = (_started(local, gate), *(local.submit(a_request()) for _ in "ab"))
    assert [local.position(job.id) for job in (first, second, third)] == [0, 1, 2]
    assert third.last == Progress(stage=Stage.QUEUED, step=2)
    second.cancel()
    assert ending(second) == Stopped()
    assert third.last == Progress(stage=Stage.QUEUED, step=1)
    assert local.position(third.id) == 1


def test_a_full_queue_says_so_and_takes_jobs_again(local: LocalQueue, gate: Gate) -> None:
    _started(local, gate)
    waiting = [local.submit(a_request()) for _ in range(2)]
    with pytest.raises(QueueFull, match="2 videos are waiting already"):
        local.submit(a_request())
    waiting[0].cancel()
    local.submit(a_request())


def test_cancelling_a_running_job_stops_it_at_its_next_progress(
    local: LocalQueue, gate: Gate
) -> None:
    job, behind = _started(local, gate), local.submit(a_request())
    job.cancel()
    job.cancel()
    assert ending(job) == Stopped()
    assert [e.note for e in job.events() if isinstance(e, Progress)][-1] == STOPPING
    gate.go.set()
    assert isinstance(ending(behind), Succeeded)
    job.cancel()
    assert ending(job) == Stopped()


def test_cancelling_a_finished_job_changes_nothing(queue: JobQueue) -> None:
    job = queue.submit(a_request())
    end = ending(job)
    job.cancel()
    assert ending(job) == end


def test_two_watchers_see_the_same_end(local: LocalQueue, gate: Gate) -> None:
    job = _started(local, gate)
    ends: list[Event] = []
    watchers = [threading.Thread(target=lambda: ends.append(ending(job))) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    gate.go.set()
    for watcher in watchers:
        watcher.join(5)
    assert ends == [Succeeded(a_video(job.id))] * 2


def test_a_long_job_keeps_a_short_record(local: LocalQueue, gate: Gate) -> None:
    job = _started(local, gate)
    eventually(lambda: isinstance(job.last, Progress) and job.last.step >= 20)
    gate.go.set()
    ending(job)
    assert len(list(job.events())) <= len(Stage) + 1


def test_notes_survive_newer_progress() -> None:
    def noting(job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        on_progress(Progress(stage=Stage.DENOISING, note="Memory ran out; trying a smaller plan."))
        on_progress(Progress(stage=Stage.DENOISING, step=1, total=2))
        raise OutOfMemory("Still too big.")

    queue = LocalQueue(noting, 1)
    notes = [e.note for e in queue.submit(a_request()).events() if isinstance(e, Progress)]
    queue.close()
    assert "Memory ran out; trying a smaller plan." in notes


def test_close_ends_waiting_and_running_jobs_and_joins_the_worker(
    local: LocalQueue, gate: Gate
) -> None:
    jobs = [_started(local, gate), local.submit(a_request()), local.submit(a_request())]
    local.close()
    assert [ending(job) for job in jobs] == [Stopped()] * 3
    assert "svd-worker" not in [thread.name for thread in threading.enumerate()]


def test_close_does_not_wait_for_ever_for_work_that_never_looks_up() -> None:
    release, started = threading.Event(), threading.Event()

    def stuck(job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        started.set()
        release.wait(10)
        return a_video(job_id)

    queue = LocalQueue(stuck, 1, patience_s=0.05)
    job = queue.submit(a_request())
    assert started.wait(5)
    queue.close()
    assert ending(job) == Stopped()
    release.set()
    eventually(lambda: "svd-worker" not in [thread.name for thread in threading.enumerate()])
    assert ending(job) == Stopped()


def test_finished_jobs_are_forgotten_and_their_photos_at_once() -> None:
    class Photo(bytes):
        pass

    queue = LocalQueue(make, 5, keep_s=0.0)
    photo = Photo(b"photo")
    gone = weakref.ref(request := VideoRequest(photo, VideoParams(seed=1)))
    job = queue.submit(request)
    ending(job)
    del request
    eventually(lambda: gc.collect() >= 0 and gone() is None)
    with pytest.raises(UnknownJob):
        queue.get(job.id)
    queue.close()


def test_an_inline_job_works_in_the_watcher_s_thread_and_only_once() -> None:
    threads: list[str] = []

    def work(job_id: str, request: VideoRequest) -> Generator[Progress | Video]:
        threads.append(threading.current_thread().name)
        yield from denoise(job_id, request)

    queue = InlineQueue(work, 1)
    job = queue.submit(a_request())
    assert threads == []
    first = list(job.events())
    assert first[-1] == ending(job) == Succeeded(a_video(job.id))
    assert threads == [threading.current_thread().name]


def test_an_inline_job_whose_watcher_leaves_is_stopped_and_frees_its_place() -> None:
    closed: list[str] = []

    def work(job_id: str, request: VideoRequest) -> Generator[Progress | Video]:
        try:
            yield from denoise(job_id, request)
        finally:
            closed.append(job_id)

    queue = InlineQueue(work, 1)
    job = queue.submit(a_request())
    with pytest.raises(QueueFull, match="1 videos"):
        queue.submit(a_request())
    watching = job.events()
    next(watching), next(watching)
    watching.close()  # type: ignore[attr-defined]  # it is a generator
    assert closed == [job.id]
    assert ending(job) == Stopped()
    queue.submit(a_request())


@pytest.mark.parametrize("begun", [0, 2])
def test_an_inline_job_can_be_cancelled_before_and_during_the_work(begun: int) -> None:
    job = InlineQueue(denoise, 1).submit(a_request())
    watching = job.events()
    for _ in range(begun):
        next(watching)
    job.cancel()
    assert list(watching)[-1] == Stopped()
    assert ending(job) == Stopped()


def test_a_job_that_raises_cancelled_by_itself_is_stopped() -> None:
    def work(job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        raise Cancelled

    queue = LocalQueue(work, 1)
    assert ending(queue.submit(a_request())) == Stopped()
    queue.close()


def _started(queue: LocalQueue, gate: Gate) -> Job:
    job = queue.submit(a_request())
    assert gate.started.wait(5)
    return job


class AnyOrder(RuleBasedStateMachine):
    """Submit, cancel, let go and close in any order; in the end every job has one ending."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()
        self.queue = LocalQueue(self.gate, max_queue=3)
        self.jobs: list[tuple[bytes, Job]] = []
        self.asked_to_stop: set[str] = set()
        self.closed = False

    @rule(kind=st.sampled_from([b"good", b"bad", b"crash"]))
    def submit(self, kind: bytes) -> None:
        try:
            self.jobs.append((kind, self.queue.submit(a_request(kind))))
        except ServerStopping:
            assert self.closed
        except QueueFull:
            assert sum(not job.done for _, job in self.jobs) >= 3
        else:
            assert not self.closed

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        _, job = data.draw(st.sampled_from(self.jobs))
        if not job.done:
            self.asked_to_stop.add(job.id)
        job.cancel()

    @rule()
    def let_go(self) -> None:
        self.gate.go.set()

    @rule()
    def hold(self) -> None:
        self.gate.go.clear()

    @rule()
    def close(self) -> None:
        self.asked_to_stop |= {job.id for _, job in self.jobs if not job.done}
        self.queue.close()
        self.closed = True
        assert all(job.done for _, job in self.jobs)

    @invariant()
    def positions_are_in_order(self) -> None:
        for _, job in self.jobs:
            assert 0 <= self.queue.position(job.id) <= 3

    def teardown(self) -> None:
        if not self.closed:
            self.gate.go.set()
        for kind, job in self.jobs:
            end = ending(job)
            if job.id not in self.asked_to_stop:
                assert isinstance(end, Succeeded if kind == b"good" else Failed)
        self.queue.close()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=60,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
