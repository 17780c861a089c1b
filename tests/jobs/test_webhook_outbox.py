"""Webhooks are tried until they get through or are given up, across restarts."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from svd_core.jobs import (
    Job,
    JobOptions,
    JobQueue,
    Outbox,
    Undeliverable,
)
from svd_core.jobs.webhook_outbox import Delivery, RetryPolicy
from svd_core.params import VideoParams, VideoRequest
from tests.fakes.job_events import eventually
from tests.fakes.work import FakeWork, front_queue, worker_queue

URL = "http://127.0.0.1:1/hook"
QUICK = RetryPolicy(first_s=0.05, most_s=0.2, tries=4)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    with front_queue(tmp_path) as queue:
        yield queue


@contextmanager
def outbox(
    queue: JobQueue,
    send: Callable[[Job, str], None],
    patience: RetryPolicy = QUICK,
    **options: int,
) -> Iterator[Outbox]:
    outbox = Outbox(queue.table, queue.get, send, patience, poll_interval_s=0.01, **options)
    try:
        yield outbox
    finally:
        outbox.close()


def over(queue: JobQueue, webhook: str | None = URL) -> Job:
    """A job that has ended."""
    request = VideoRequest(b"", VideoParams(seed=1))
    job = queue.submit(request, JobOptions(webhook=webhook))
    job.cancel()
    return job


def letter(outbox: Outbox, job: Job, state: str) -> Delivery:
    """The job's webhook, once it is in that state."""
    eventually(lambda: (found := outbox.delivery(job.id)) and found.state == state)
    found = outbox.delivery(job.id)
    assert found is not None
    return found


def test_the_end_is_told_once_with_the_job_as_it_ended(queue: JobQueue) -> None:
    told: list[tuple[str, bool, str]] = []
    with outbox(queue, lambda job, url: told.append((job.id, job.done, url))) as box:
        job = over(queue)
        assert letter(box, job, "delivered") == Delivery(job.id, URL, "delivered", 1, "")
        time.sleep(0.2)
    assert told == [(job.id, True, URL)]


def test_jobs_without_a_webhook_tell_nobody(queue: JobQueue) -> None:
    told: list[str] = []
    with outbox(queue, lambda job, _: told.append(job.id)) as box:
        silent, job = over(queue, webhook=None), over(queue)
        letter(box, job, "delivered")
        assert box.delivery(silent.id) is None
    assert told == [job.id]


def test_every_kind_of_end_has_its_webhook(tmp_path: Path) -> None:
    from svd_core.errors import InvalidRequest

    with worker_queue(tmp_path, FakeWork(tmp_path)) as queue:
        told: list[str] = []
        with outbox(queue, lambda job, _: told.append(job.id)) as box:
            made = queue.submit(VideoRequest(b"", VideoParams()), JobOptions(webhook=URL))
            wrong = queue.reject(
                InvalidRequest("link_repeats_setting", field="fps"), JobOptions(webhook=URL)
            )
            late = JobOptions(webhook=URL, start_timeout_s=0.0)
            jobs = [made, wrong, queue.submit(VideoRequest(b"", VideoParams()), late), over(queue)]
            for job in jobs:
                letter(box, job, "delivered")
    assert sorted(told) == sorted(job.id for job in jobs)


def test_what_does_not_get_through_is_tried_again_less_and_less_often(queue: JobQueue) -> None:
    tried: list[float] = []

    def send(*_: object) -> None:
        tried.append(time.monotonic())
        if len(tried) < 4:
            raise ConnectionError("nobody there")

    with outbox(queue, send) as box:
        job = over(queue)
        eventually(lambda: len(tried) == 3)
        found = letter(box, job, "due")
        assert found.problem == "ConnectionError: nobody there"
        assert letter(box, job, "delivered").tries == 4
    gaps = [later - earlier for earlier, later in zip(tried, tried[1:], strict=False)]
    assert [gap >= delay for gap, delay in zip(gaps, (0.05, 0.1, 0.2), strict=True)] == [True] * 3


def test_in_the_end_it_is_given_up_for_all_to_see(
    queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[int] = []

    def send(*_: object) -> None:
        tried.append(1)
        raise TimeoutError("no answer")

    with outbox(queue, send) as box:
        job = over(queue)
        found = letter(box, job, "given up")
        time.sleep(0.3)
    assert (found.tries, found.problem, len(tried)) == (4, "TimeoutError: no answer", 4)
    assert f"Gave up the webhook of job {job.id} after 4 tries" in caplog.text
    assert job.done


def test_what_can_never_get_through_is_given_up_at_once(queue: JobQueue) -> None:
    def send(*_: object) -> None:
        raise Undeliverable("that address is private")

    with outbox(queue, send) as box:
        found = letter(box, over(queue), "given up")
    assert (found.tries, found.problem) == (1, "that address is private")


def test_one_that_hangs_does_not_hold_up_the_others(queue: JobQueue) -> None:
    go = threading.Event()

    def send(job: Job, url: str) -> None:
        if url == "hangs":
            go.wait(10)

    with outbox(queue, send, max_concurrent=2) as box:
        slow, quick = over(queue, "hangs"), over(queue)
        letter(box, quick, "delivered")
        time.sleep(0.3)  # longer than until the next try, which is not made beside this one
        assert letter(box, slow, "due").tries == 1
        go.set()
        letter(box, slow, "delivered")


def test_no_more_are_sent_at_once_than_allowed(queue: JobQueue) -> None:
    now, most = 0, 0
    lock, reached = threading.Lock(), threading.Event()

    def send(*_: object) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
            if now == 3:
                reached.set()
        assert reached.wait(60)
        time.sleep(0.02)  # for more of them to come, if they may
        with lock:
            now -= 1

    jobs = [over(queue) for _ in range(12)]
    with outbox(queue, send, max_concurrent=3) as box:
        for job in jobs:
            letter(box, job, "delivered")
    assert most == 3


def test_what_was_due_when_the_server_stopped_is_sent_by_the_next(queue: JobQueue) -> None:
    def fails(*_: object) -> None:
        raise ConnectionError

    told: list[str] = []
    with outbox(queue, fails) as box:
        job = over(queue)
        eventually(lambda: (found := box.delivery(job.id)) and found.tries == 2)
    with outbox(queue, lambda job, _: told.append(job.id)) as box:
        assert letter(box, job, "delivered").tries == 3
    assert told == [job.id]


def test_the_usual_patience_is_hours_not_days() -> None:
    usual = RetryPolicy()
    delays = [usual.delay_s(tries) for tries in range(usual.tries)]
    assert delays[:4] == [0, 20, 40, 80]
    assert max(delays) <= 3600
    assert 2 * 3600 < sum(delays) < 3 * 3600
