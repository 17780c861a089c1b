"""Queues: every job has exactly one terminal event, in any order of submit, cancel and close."""

import gc
import os
import sys
import threading
import weakref
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from svd_core.errors import (
    Cancelled,
    GenerationFailed,
    InvalidImage,
    OutOfMemory,
    QueueFull,
    ServerStopping,
    StartTimeout,
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
from svd_core.jobs import (
    Job,
    JobOptions,
    JobQueue,
    LocalExecutor,
    QueueContext,
    QueueLimits,
    WorkerQueue,
)
from svd_core.jobs.schema import State
from svd_core.jobs.worker import NICE_INCREMENT
from svd_core.messages import Message
from svd_core.params import VideoParams, VideoRequest
from tests.fakes.errors import has_code
from tests.fakes.job_events import eventually
from tests.fakes.work import front_queue, inline_queue, open_table, position, worker_queue


def a_request(image: bytes = b"photo") -> VideoRequest:
    return VideoRequest(image, VideoParams(seed=1))


def a_video(job_id: str) -> Video:
    return Video(
        path=Path(f"/nowhere/{job_id}.mp4"), width=64, height=64, num_frames=2, fps=7, seed=1,
        model="fake", elapsed_s=0.1,
    )  # fmt: skip


def make(job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
    """Does what the photo's bytes say."""
    on_progress(Progress(stage=Stage.ENCODING))
    if request.image == b"bad":
        raise InvalidImage("image_damaged")
    if request.image == b"crash":
        raise ZeroDivisionError("secret detail")
    return a_video(job_id)


def denoise(job_id: str, request: VideoRequest) -> Generator[Event]:
    for step in range(3):
        yield Progress(stage=Stage.DENOISING, step=step, total=3)
    yield Succeeded(make(job_id, request, lambda progress: None))


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
def local(gate: Gate, tmp_path: Path) -> Iterator[WorkerQueue]:
    with worker_queue(tmp_path, gate, 2) as queue:
        yield queue
        gate.go.set()


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


@pytest.fixture(params=["worker", "inline"])
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobQueue]:
    if request.param == "worker":
        with worker_queue(tmp_path, make, 2) as worker:
            yield worker
    else:
        with inline_queue(tmp_path, denoise, 2) as inline:
            yield inline


def test_a_job_ends_with_its_video(queue: JobQueue) -> None:
    job = queue.submit(a_request())
    assert ending(job) == Succeeded(a_video(job.id))
    assert queue.get(job.id).last == job.last
    assert position(job) == 0
    assert job.params == queue.get(job.id).params == VideoParams(seed=1)


def test_events_can_be_replayed_after_the_end(queue: JobQueue) -> None:
    job = queue.submit(a_request())
    first = ending(job)
    assert ending(job) == first


def test_a_known_error_reaches_the_user_word_for_word(queue: JobQueue) -> None:
    end = ending(queue.submit(a_request(b"bad")))
    assert isinstance(end, Failed)
    assert end.error.code == "image_damaged"
    assert str(end.error) == Message("image_damaged")


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
    with pytest.raises(UnknownJob, check=has_code("job_expired")):
        queue.get("no such job")


def test_a_closed_queue_takes_nothing_and_closes_twice(queue: JobQueue) -> None:
    queue.close()
    queue.close()
    with pytest.raises(ServerStopping, check=has_code("server_stopping")):
        queue.submit(a_request())


def test_waiting_jobs_hear_how_many_go_before_them(local: WorkerQueue, gate: Gate) -> None:
    first, second, third = (_started(local, gate), *(local.submit(a_request()) for _ in "ab"))
    assert [position(job) for job in (first, second, third)] == [0, 1, 2]
    assert third.last == Progress(stage=Stage.QUEUED, step=2)
    second.cancel()
    assert ending(second) == Stopped()
    assert third.last == Progress(stage=Stage.QUEUED, step=1)
    assert position(third) == 1


def test_a_full_queue_says_so_and_takes_jobs_again(local: WorkerQueue, gate: Gate) -> None:
    _started(local, gate)
    waiting = [local.submit(a_request()) for _ in range(2)]
    with pytest.raises(QueueFull, check=has_code("queue_full", count=2)):
        local.submit(a_request())
    waiting[0].cancel()
    local.submit(a_request())


def test_cancelling_a_running_job_stops_it_at_its_next_progress(
    local: WorkerQueue, gate: Gate
) -> None:
    job, behind = _started(local, gate), local.submit(a_request())
    job.cancel()
    job.cancel()
    assert ending(job) == Stopped()
    assert [e.note for e in job.events() if isinstance(e, Progress)][-1] == Message("cancelling")
    gate.go.set()
    assert isinstance(ending(behind), Succeeded)
    job.cancel()
    assert ending(job) == Stopped()


def test_cancelling_a_finished_job_changes_nothing(queue: JobQueue) -> None:
    job = queue.submit(a_request())
    end = ending(job)
    job.cancel()
    assert ending(job) == end


def test_two_watchers_see_the_same_end(local: WorkerQueue, gate: Gate) -> None:
    job = _started(local, gate)
    ends: list[Event] = []
    watchers = [threading.Thread(target=lambda: ends.append(ending(job))) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    gate.go.set()
    for watcher in watchers:
        watcher.join(5)
    assert ends == [Succeeded(a_video(job.id))] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux knows of priorities of threads")
def test_the_work_gives_way_to_those_who_ask_about_it(tmp_path: Path) -> None:
    nice: list[int] = []

    def work(job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        nice.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return a_video(job_id)

    with worker_queue(tmp_path, work) as queue:
        ending(queue.submit(a_request()))
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert nice == [min(own + NICE_INCREMENT, 19)]


def test_a_long_job_keeps_a_short_record(tmp_path: Path) -> None:
    """Loaded bytes and repeated progress are dropped; each step is a line of the log."""

    def talking(job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        for count in range(200):
            on_progress(Progress(stage=Stage.LOADING, step=count, total=200))
        for count in range(200):
            on_progress(Progress(stage=Stage.DENOISING, step=count // 50, total=4, elapsed_s=count))
        return a_video(job_id)

    with worker_queue(tmp_path, talking) as queue:
        job = queue.submit(a_request())
        eventually(lambda: job.done)  # who watches meanwhile sees more
        events = list(job.events())
    told = [(e.stage, e.step) for e in events if isinstance(e, Progress)][1:]
    assert told == [(Stage.LOADING, 199), *((Stage.DENOISING, step) for step in range(4))]


def test_notes_survive_newer_progress(tmp_path: Path) -> None:
    def noting(job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        on_progress(Progress(stage=Stage.DENOISING, note="Memory ran out; trying a smaller plan."))
        on_progress(Progress(stage=Stage.DENOISING, step=1, total=2))
        raise OutOfMemory("memory_too_small_to_load", model="x")

    with worker_queue(tmp_path, noting) as queue:
        notes = [e.note for e in queue.submit(a_request()).events() if isinstance(e, Progress)]
    assert "Memory ran out; trying a smaller plan." in notes


def test_what_a_request_continues_survives_a_restart(tmp_path: Path) -> None:
    asked: list[VideoRequest] = []

    def listening(job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        asked.append(request)
        return a_video(job_id)

    requests = [
        VideoRequest(b"frame", VideoParams(seed=4, num_frames=9), continues="0a" * 16),
        VideoRequest(b"photo", VideoParams(seed=5)),
    ]
    with front_queue(tmp_path) as front:  # a server that dies before it begins
        ids = [front.submit(request).id for request in requests]
    with worker_queue(tmp_path, listening) as queue:
        for job_id in ids:
            list(queue.get(job_id).events())
    assert asked == requests


def test_a_job_that_was_stopped_keeps_its_last_preview_for_who_watches(tmp_path: Path) -> None:
    go = threading.Event()

    def forming(job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        for step in range(1, 5):
            on_progress(Progress(stage=Stage.DENOISING, step=step, preview=b"%d" % step))
        go.set()
        while True:
            on_progress(Progress(stage=Stage.DENOISING, step=5))

    with worker_queue(tmp_path, forming) as queue:
        job = queue.submit(a_request())
        assert go.wait(5)
        job.cancel()
        events = list(job.events())
    shown = [e.preview for e in events if isinstance(e, Progress) and e.preview]
    assert (shown, events[-1]) == ([b"4"], Stopped())
    with open_table(tmp_path) as table:
        row = table.get(job.id)
    assert row is not None
    assert not any(e.event.preview for e in row.record if isinstance(e.event, Progress))


def test_close_lets_the_watchers_go_and_joins_the_worker(local: WorkerQueue, gate: Gate) -> None:
    jobs = [_started(local, gate), local.submit(a_request()), local.submit(a_request())]
    watching = [job.events() for job in jobs]
    for events in watching:
        next(events)
    local.close()
    assert "svd-worker" not in [thread.name for thread in threading.enumerate()]
    for job, events in zip(jobs, watching, strict=True):
        with pytest.raises(ServerStopping, check=has_code("server_stopping_job_kept")):
            list(events)
        with pytest.raises(ServerStopping):
            list(local.get(job.id).events())
        assert not job.done
    assert [position(job) for job in jobs] == [0, 1, 2]


def test_close_does_not_wait_for_ever_for_work_that_never_looks_up(tmp_path: Path) -> None:
    release, started = threading.Event(), threading.Event()

    def stuck(job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        started.set()
        release.wait(10)
        return a_video(job_id)

    with open_table(tmp_path) as table:
        limits = QueueLimits(shutdown_timeout_s=0.05)
        queue = WorkerQueue([LocalExecutor(stuck)], QueueContext(table, limits)).start()
        job = queue.submit(a_request())
        assert started.wait(5)
        queue.close()
        release.set()
        eventually(lambda: "svd-worker" not in [t.name for t in threading.enumerate()])
        row = table.get(job.id)
        assert row is not None
        assert (row.state, row.attempt) == (State.WAITING, 0)  # made as soon as a worker is free


def test_the_photo_is_not_kept_in_memory(tmp_path: Path) -> None:
    class Photo(bytes):
        pass

    with worker_queue(tmp_path, make) as queue:
        gone = weakref.ref(request := VideoRequest(Photo(b"photo"), VideoParams(seed=1)))
        ending(queue.submit(request))
        del request
        eventually(lambda: gc.collect() >= 0 and gone() is None)


def test_an_inline_job_works_in_the_watcher_s_thread_and_only_once(tmp_path: Path) -> None:
    threads: list[str] = []

    def work(job_id: str, request: VideoRequest) -> Generator[Event]:
        threads.append(threading.current_thread().name)
        yield from denoise(job_id, request)

    with inline_queue(tmp_path, work) as queue:
        job = queue.submit(a_request())
        assert threads == []
        first = list(job.events())
        assert first[-1] == ending(job) == Succeeded(a_video(job.id))
        assert threads == [threading.current_thread().name]


def test_an_inline_job_whose_watcher_leaves_is_stopped_and_frees_its_place(
    tmp_path: Path,
) -> None:
    closed: list[str] = []

    def work(job_id: str, request: VideoRequest) -> Generator[Event]:
        try:
            yield from denoise(job_id, request)
        finally:
            closed.append(job_id)

    with inline_queue(tmp_path, work, 1) as queue:
        job = queue.submit(a_request())
        with pytest.raises(QueueFull, check=has_code("queue_full", count=1)):
            queue.submit(a_request())
        watching = job.events()
        next(watching), next(watching)
        with pytest.raises(QueueFull, check=has_code("queue_full", count=1)):
            queue.submit(a_request())
        watching.close()  # type: ignore[attr-defined]  # it is a generator
        assert closed == [job.id]
        assert ending(job) == Stopped()
        queue.submit(a_request())


@pytest.mark.parametrize("begun", [0, 2])
def test_an_inline_job_can_be_cancelled_before_and_during_the_work(
    begun: int, tmp_path: Path
) -> None:
    with inline_queue(tmp_path, denoise) as queue:
        job = queue.submit(a_request())
        watching = job.events()
        for _ in range(begun):
            next(watching)
        job.cancel()
        assert list(watching)[-1] == Stopped()
        assert ending(job) == Stopped()


def test_an_inline_job_whose_time_is_up_is_not_begun_by_a_late_watcher(tmp_path: Path) -> None:
    begun: list[str] = []

    def work(job_id: str, request: VideoRequest) -> Generator[Event]:
        begun.append(job_id)
        yield from denoise(job_id, request)

    with inline_queue(tmp_path, work) as queue:
        end = ending(queue.submit(a_request(), JobOptions(start_timeout_s=1e-6)))
    assert isinstance(end, Failed)
    assert isinstance(end.error, StartTimeout)
    assert begun == []


def test_a_job_that_raises_cancelled_by_itself_is_stopped(tmp_path: Path) -> None:
    def work(job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        raise Cancelled

    with worker_queue(tmp_path, work) as queue:
        assert ending(queue.submit(a_request())) == Stopped()


def _started(queue: WorkerQueue, gate: Gate) -> Job:
    job = queue.submit(a_request())
    assert gate.started.wait(5)
    return job
