"""Faults of the machine that pass end no job: it goes back in line, waits, and is made."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import delete

from svd_core.database import translate_errors
from svd_core.errors import (
    GenerationFailed,
    InvalidImage,
    OutOfMemory,
    ServerBusy,
    StorageFull,
    SvdError,
    Unreachable,
    busy_if_passing,
)
from svd_core.events import Event, Failed, OnProgress, Progress, Stage, Stopped, Succeeded, Video
from svd_core.jobs import (
    Cancellation,
    InlineQueue,
    Job,
    JobOptions,
    JobTable,
    LocalExecutor,
    QueueContext,
    RemoteRequest,
    WorkerQueue,
)
from svd_core.jobs.job import MAX_FAULTS, MAX_RETRY_S
from svd_core.jobs.schema import PHOTOS
from svd_core.jobs.store import new_row
from svd_core.messages import Message
from svd_core.params import VideoParams, VideoRequest
from tests.fakes.job_events import ending, eventually, failure, submit
from tests.fakes.work import FakeWork, open_table


def fault(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousandth of the real delays."""
    usual = Job.retry_delay_s

    def retry_delay_s(job: Job, end: Failed) -> float | None:
        delay = usual(job, end)
        return None if delay is None else delay / 1000

    monkeypatch.setattr(Job, "retry_delay_s", retry_delay_s)


class Faulty:
    """Work that raises what it is given, one after the other, and then is done."""

    def __init__(self, folder: Path, *errors: Exception) -> None:
        self._work = FakeWork(folder)
        self._errors = list(errors)
        self.begun: list[str] = []

    def __call__(self, job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        self.begun.append(job_id)
        if self._errors:
            raise self._errors.pop(0)
        return self._work(job_id, request, on_progress)


@contextmanager
def worker(folder: Path, *errors: Exception) -> Iterator[tuple[WorkerQueue, Faulty]]:
    with open_table(folder) as table:
        work = Faulty(folder, *errors)
        queue = WorkerQueue([LocalExecutor(work)], QueueContext(table)).start()
        yield queue, work
        queue.close()


def notes(job: Job) -> list[str | None]:
    return [e.event.note for e in job.events_since() if isinstance(e.event, Progress)]


def wrapped(error: Exception) -> SvdError:
    """As the modules do that translate a library's errors."""
    try:
        try:
            raise error
        except Exception as caught:
            raise GenerationFailed("video_not_written", reason="x") from caught
    except GenerationFailed as outer:
        return outer


@pytest.mark.parametrize(
    "error",
    [
        *map(fault, (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ENOSPC)),
        MemoryError(),
        RuntimeError("can't start new thread"),
        ServerBusy("server_busy"),
        StorageFull("video_disk_full"),
        wrapped(fault(errno.EMFILE)),
    ],
    ids=repr,
)
def test_a_job_that_meets_one_is_made_later(tmp_path: Path, error: Exception) -> None:
    with worker(tmp_path, error, error) as (queue, work):
        jobs = [submit(queue, b"1"), submit(queue, b"2")]
        assert all(isinstance(ending(job), Succeeded) for job in jobs)
        assert work.begun == [jobs[0].id] * 3 + [jobs[1].id]
        assert Message("waiting_for_resources") in notes(jobs[0])


@pytest.mark.parametrize(
    "error",
    [
        GenerationFailed("model_gave_nothing"),
        InvalidImage("image_damaged"),
        OutOfMemory("memory_too_small_to_load", model="x"),
        fault(errno.ENOENT),
        ValueError("No."),
    ],
    ids=repr,
)
def test_others_are_the_end_at_once(tmp_path: Path, error: Exception) -> None:
    with worker(tmp_path, error) as (queue, work):
        job = submit(queue, b"1")
        assert not isinstance(failure(job), ServerBusy)
        assert work.begun == [job.id]


def test_one_that_does_not_pass_ends_the_job_and_not_those_behind_it(tmp_path: Path) -> None:
    with worker(tmp_path, *[fault(errno.EMFILE)] * MAX_FAULTS) as (queue, work):
        job, behind = submit(queue, b"1"), submit(queue, b"2")
        assert isinstance(failure(job), ServerBusy)
        assert isinstance(ending(behind), Succeeded)
        assert work.begun == [job.id] * MAX_FAULTS + [behind.id]


def test_out_of_descriptors_no_photo_is_said_to_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four accepted jobs ended at once because a client held all connections."""
    read, left = JobTable.photo, [6]

    def photo(table: JobTable, name: str) -> bytes | None:
        if left[0] == 0:
            return read(table, name)
        left[0] -= 1
        with translate_errors():
            raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(JobTable, "photo", photo)
    with worker(tmp_path) as (queue, _):
        jobs = [submit(queue, bytes([n])) for n in range(4)]
        assert all(isinstance(ending(job), Succeeded) for job in jobs)


def test_a_photo_that_is_gone_is_the_end(tmp_path: Path) -> None:
    with worker(tmp_path) as (queue, work):
        with work._work.held():
            first, second = submit(queue, b"1"), submit(queue, b"2")
            eventually(lambda: work.begun)
            with queue.table.database.write() as connection:
                connection.execute(delete(PHOTOS))
        assert isinstance(ending(first), Succeeded)
        assert failure(second).code == "image_gone"


def test_a_job_can_be_stopped_while_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Job, "retry_delay_s", lambda *_: 600.0)
    with worker(tmp_path, fault(errno.ENOSPC)) as (queue, work):
        job = submit(queue, b"1")
        eventually(lambda: work.begun and job.times.started is None)
        job.cancel()
        assert isinstance(ending(job), Stopped)


def test_a_fetch_that_meets_one_is_tried_again(tmp_path: Path) -> None:
    asked: list[str] = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        if len(asked) < 3:
            try:
                raise fault(errno.EMFILE)
            except OSError as error:
                raise Unreachable("url_silent", host="h") from error
        return b"photo"

    with open_table(tmp_path) as table:
        work = LocalExecutor(FakeWork(tmp_path))
        queue = WorkerQueue([work], QueueContext(table, fetch=fetch)).start()
        job = queue.submit(RemoteRequest("http://host/photo", VideoParams(seed=1)))
        assert isinstance(ending(job), Succeeded)
        queue.close()
    assert len(asked) == 3


def test_without_a_worker_the_watcher_tries_again(tmp_path: Path) -> None:
    with open_table(tmp_path) as table:
        faulty = Faulty(tmp_path, fault(errno.ENOMEM))

        def work(job_id: str, request: VideoRequest) -> Iterator[Event]:
            yield Progress(stage=Stage.LOADING)
            yield Succeeded(faulty(job_id, request, lambda _: None))

        queue = InlineQueue(work, QueueContext(table)).start()  # type: ignore[arg-type]
        events = list(submit(queue, b"1").events())
        queue.close()
    assert isinstance(events[-1], Succeeded)
    assert Message("waiting_for_resources") in [
        event.note for event in events if isinstance(event, Progress)
    ]


def test_a_watcher_that_waits_notices_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Job, "retry_delay_s", lambda *_: 600.0)

    def work(*_: object) -> Iterator[Event]:
        raise fault(errno.ENOMEM)
        yield

    with open_table(tmp_path) as table:
        queue = InlineQueue(work, QueueContext(table)).start()  # type: ignore[arg-type]
        job = submit(queue, b"1")
        for event in job.events():
            if isinstance(event, Progress) and event.note == Message("waiting_for_resources"):
                job.cancel()
        queue.close()
    assert isinstance(event, Stopped)


def test_delays_grow_to_their_limit_for_each_job() -> None:
    busy = Failed(ServerBusy("server_busy"))

    def delays() -> list[float | None]:
        job = Job(new_row(None, JobOptions(), 0.0), lambda: 0.0, lambda _: Cancellation.TOO_LATE)
        return [job.retry_delay_s(busy) for _ in range(MAX_FAULTS)]

    first = delays()
    assert first[-1] is None
    grown = [delay for delay in first if delay is not None]
    assert grown == sorted(grown)
    assert grown[-1] == MAX_RETRY_S / 1000
    assert delays() == first


def test_a_chain_of_causes_may_be_a_circle() -> None:
    one, two = ValueError("1"), ValueError("2")
    one.__cause__, two.__cause__ = two, one
    assert busy_if_passing(one) is None
