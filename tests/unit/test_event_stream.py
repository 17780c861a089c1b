"""Work as a stream of events, which may cross to another process."""

import pickle
import threading
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import pytest

from svd_core.errors import Cancelled, GenerationFailed, InvalidImage, InvalidRequest, OutOfMemory
from svd_core.event_stream import run_as_stream
from svd_core.events import Event, Failed, OnProgress, Progress, Stage, Stopped, Succeeded, Video
from svd_core.params import VideoParams, VideoRequest
from tests.fakes.work import inline_queue

REQUEST = VideoRequest(b"photo", VideoParams(seed=1))
STEP = Progress(stage=Stage.DENOISING, step=1, total=2)
VIDEO = Video(
    path=Path("x.mp4"), width=64, height=64, num_frames=2, fps=7, seed=1, model="fake",
    elapsed_s=0.1, notes=("fps was held to 30.",),
)  # fmt: skip


def good(_: str, __: VideoRequest, on_progress: OnProgress) -> Video:
    on_progress(Progress(stage=Stage.ENCODING))
    on_progress(STEP)
    return VIDEO


def failing(error: Exception):
    def work(_: str, __: VideoRequest, on_progress: OnProgress) -> Video:
        on_progress(STEP)
        raise error

    return work


class Endless:
    """Works until its progress raises; `stopped` then says that it did."""

    def __init__(self) -> None:
        self.stopped = threading.Event()

    def __call__(self, _: str, __: VideoRequest, on_progress: OnProgress) -> Video:
        try:
            while True:
                on_progress(STEP)
                time.sleep(0.002)
        except Cancelled:
            self.stopped.set()
            raise


def test_progress_comes_before_the_video() -> None:
    assert list(run_as_stream(good, "1", REQUEST)) == [
        Progress(stage=Stage.ENCODING),
        STEP,
        Succeeded(VIDEO),
    ]


def test_progress_comes_while_the_work_goes_on() -> None:
    go = threading.Event()

    def work(_: str, __: VideoRequest, on_progress: OnProgress) -> Video:
        on_progress(STEP)
        assert go.wait(10)
        return VIDEO

    stream = run_as_stream(work, "1", REQUEST)
    assert next(stream) == STEP
    go.set()
    assert list(stream) == [Succeeded(VIDEO)]


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemory("memory_too_small_to_load", model="x"),
        InvalidRequest("link_repeats_setting", field="fps"),
        InvalidImage("image_damaged"),
    ],
)
def test_an_error_keeps_its_sentence_across_processes(error) -> None:
    def crossed() -> Generator[Event]:
        for event in run_as_stream(failing(error), "1", REQUEST):
            yield pickle.loads(pickle.dumps(event))  # noqa: S301 - our own

    *_, outcome = crossed()
    assert isinstance(outcome, Failed)
    assert outcome.error is not error
    assert (str(outcome.error), outcome.error.status) == (str(error), error.status)
    assert vars(outcome.error) == vars(error)


def test_what_nobody_foresaw_tells_no_details(caplog: pytest.LogCaptureFixture) -> None:
    *_, outcome = run_as_stream(failing(ZeroDivisionError("secret")), "1", REQUEST)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, GenerationFailed)
    assert "secret" not in str(outcome.error)
    assert "secret" in caplog.text


def test_stopped_from_within_is_stopped() -> None:
    *_, outcome = run_as_stream(failing(Cancelled()), "1", REQUEST)
    assert outcome == Stopped()


def test_every_event_can_be_pickled() -> None:
    for event in (STEP, Succeeded(VIDEO), Stopped()):
        assert pickle.loads(pickle.dumps(event)) == event  # noqa: S301 - our own


def test_closing_stops_the_work_before_it_returns() -> None:
    work = Endless()
    stream = run_as_stream(work, "1", REQUEST)
    assert next(stream) == STEP
    assert not work.stopped.is_set()
    stream.close()
    assert work.stopped.is_set()


def test_closing_stops_the_work_at_the_progress_that_was_read() -> None:
    """A step that no one waits for would keep the GPU for seconds."""
    steps: list[int] = []

    def work(_: str, __: VideoRequest, on_progress: OnProgress) -> Video:
        for step in range(10):
            steps.append(step)
            on_progress(Progress(stage=Stage.DENOISING, step=step, total=10))
        return VIDEO

    stream = run_as_stream(work, "1", REQUEST)
    assert [next(stream).step for _ in range(3)] == [0, 1, 2]  # type: ignore[union-attr]
    stream.close()
    assert steps == [0, 1, 2]


def test_progress_may_come_from_several_threads() -> None:
    """As that of a download does."""

    def work(_: str, __: VideoRequest, on_progress: OnProgress) -> Video:
        def report() -> None:
            with suppress(Cancelled):
                while True:
                    on_progress(STEP)

        threads = [threading.Thread(target=report) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        raise Cancelled

    stream = run_as_stream(work, "1", REQUEST)
    assert [next(stream) for _ in range(20)] == [STEP] * 20
    stream.close()


def test_cancelling_an_inline_job_stops_the_work(tmp_path: Path) -> None:
    work = Endless()

    def inline(job_id: str, request: VideoRequest) -> Generator[Event]:
        return run_as_stream(work, job_id, request)

    with inline_queue(tmp_path, inline) as queue:
        job = queue.submit(REQUEST)
        events = job.events()
        assert next(events).stage is Stage.QUEUED
        assert next(events) == STEP
        job.cancel()
        *_, outcome = events
        assert outcome == Stopped()
        assert work.stopped.is_set()
