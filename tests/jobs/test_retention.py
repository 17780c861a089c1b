"""What is too old or too much goes, rows and files together, and nothing else does."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import event, func, select, update

from svd_core.errors import InvalidRequest, QueueFull, UnknownJob
from svd_core.events import Stopped, Succeeded, Video
from svd_core.jobs import (
    Job,
    JobOptions,
    JobQueue,
    JobTable,
    Outbox,
    QueueContext,
    QueueLimits,
    RemoteRequest,
    Retention,
)
from svd_core.jobs import retention as module
from svd_core.jobs.schema import JOBS, OUTBOX, State
from svd_core.jobs.store import PRUNE_INTERVAL, begin, finish, photo_name
from svd_core.params import VideoParams, VideoRequest
from svd_core.storage import ResultStore
from tests.fakes.job_events import eventually, submit
from tests.fakes.work import front_queue, stored_photos

HOUR = 3600.0


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    with front_queue(tmp_path) as queue:
        yield queue


@pytest.fixture
def retention(queue: JobQueue, tmp_path: Path) -> Retention:
    results = ResultStore(tmp_path / "results")
    return Retention(queue.table, results, keep_hours=24, keep_gb=1e-5)  # 10 kB


def made(
    retention: Retention,
    queue: JobQueue,
    age_s: float = 0,
    size: int = 10,
    photo: bytes = b"photo",
    **options: object,
) -> Job:
    """A job that succeeded so long ago, with a result of `size` bytes."""
    request = VideoRequest(photo, VideoParams(seed=1))
    job = queue.submit(request, JobOptions(**options))  # type: ignore[arg-type]
    retention.table.update(job.id, State.WAITING, begin)
    path = retention.results.path(job.id)
    path.write_bytes(bytes(size // 2))
    retention.results.frames_path(job.id).write_bytes(bytes(size - size // 2))
    video = Video(
        path=path, width=64, height=64, num_frames=2, fps=7, seed=1, model="fake", elapsed_s=0.1
    )
    retention.table.update(
        job.id, State.RUNNING, lambda row, now: finish(row, now, Succeeded(video), size)
    )
    assert job.done
    grow_old(retention.table, job, age_s)
    return job


def grow_old(table: JobTable, job: Job, age_s: float) -> None:
    ages = {"ended": JOBS.c.ended - age_s, "expires": JOBS.c.expires - age_s}
    with table.database.write() as connection:
        connection.execute(update(JOBS).where(JOBS.c.id == job.id).values(ages))


def there(retention: Retention, job: Job) -> bool:
    """Whether the job is there with its files; it must not be half gone."""
    files = retention.results.path(job.id), retention.results.frames_path(job.id)
    found = {path.exists() for path in files}
    assert found == {retention.table.get(job.id) is not None}
    return True in found


def test_old_jobs_go_with_their_files(retention: Retention, queue: JobQueue) -> None:
    old, new = made(retention, queue, 25 * HOUR), made(retention, queue, 23 * HOUR)
    assert retention.sweep() == [old.id]
    assert (there(retention, old), there(retention, new)) == (False, True)
    fresh = JobQueue(QueueContext(retention.table)).start()
    with pytest.raises(UnknownJob):
        fresh.get(old.id)
    fresh.close()


def test_above_the_limit_the_oldest_go(retention: Retention, queue: JobQueue) -> None:
    found = [made(retention, queue, age * HOUR, 3000) for age in range(1, 6)]
    retention.sweep()
    assert [there(retention, job) for job in found] == [True] * 3 + [False] * 2
    assert retention.sweep() == []


def test_the_newest_result_stays_however_large(retention: Retention, queue: JobQueue) -> None:
    small, large = made(retention, queue, 2 * HOUR), made(retention, queue, HOUR, 20_000)
    failed = queue.reject(InvalidRequest("link_repeats_setting", field="fps"))
    retention.sweep()
    assert (there(retention, small), there(retention, large)) == (False, True)
    assert queue.get(failed.id).done  # it takes no room


def test_who_asked_for_less_gets_less(retention: Retention, queue: JobQueue) -> None:
    short = made(retention, queue, 61, keep_s=60.0)
    shorter = made(retention, queue, 59, keep_s=60.0)
    longer = made(retention, queue, 25 * HOUR, keep_s=100 * HOUR)
    assert set(retention.sweep()) == {short.id, longer.id}
    assert there(retention, shorter)


def test_failures_are_counted_since_they_have_no_size(
    retention: Retention, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 3)
    monkeypatch.setattr(module, "BATCH", 2)
    jobs = [queue.reject(InvalidRequest("link_repeats_setting", field="fps")) for _ in range(8)]
    assert set(retention.sweep()) == {job.id for job in jobs[:5]}


def test_open_jobs_stay_with_their_photos(retention: Retention, queue: JobQueue) -> None:
    waits, runs = (queue.submit(VideoRequest(p, VideoParams())) for p in (b"waits", b"runs"))
    assert retention.table.update(runs.id, State.WAITING, begin)
    over = queue.submit(VideoRequest(b"over", VideoParams()))
    over.cancel()
    replace(retention, keep_gb=0).sweep()
    assert photos_of(retention) == [b"runs", b"waits"]
    assert not waits.done
    assert not queue.get(runs.id).done
    assert over.last == Stopped()


def test_a_fetched_photo_stays_for_its_job_and_no_longer(
    retention: Retention, queue: JobQueue
) -> None:
    job = queue.submit(RemoteRequest("http://host/photo.jpg", VideoParams()))
    name = photo_name(b"fetched")
    assert retention.table.update(
        job.id, State.WAITING, lambda row, _: replace(row, image=name), photo=b"fetched"
    )
    replace(retention, keep_gb=0).sweep()
    assert queue.photo(job.id) == b"fetched"
    job.cancel()
    assert photos_of(retention) == []


def test_a_video_that_no_job_knows_goes_when_it_is_old(
    retention: Retention, queue: JobQueue
) -> None:
    """A server was killed between removing the row and removing the file."""
    known = made(retention, queue)
    files = [retention.results.path(name) for name in ("stray", "young")]
    for file in files:
        file.write_bytes(b"x")
    for file in (files[0], retention.results.path(known.id)):
        os.utime(file, (time.time() - 25 * HOUR,) * 2)
    retention.sweep()
    assert [file.exists() for file in files] == [False, True]
    assert there(retention, known)


def test_a_webhook_goes_with_its_job(retention: Retention, queue: JobQueue) -> None:
    job = made(retention, queue, 25 * HOUR, webhook="http://127.0.0.1:1/")
    told: list[str] = []
    retention.sweep()
    outbox = Outbox(
        retention.table, queue.get, lambda job, _: told.append(job.id), poll_interval_s=0.01
    )
    time.sleep(0.1)
    assert outbox.delivery(job.id) is None
    outbox.close()
    assert told == []


def test_endless_keeping(retention: Retention, queue: JobQueue) -> None:
    job = made(retention, queue, 1e6 * HOUR)
    replace(retention, keep_hours=float("inf"), keep_gb=float("inf")).sweep()
    assert there(retention, job)


def test_a_clock_that_was_ahead_costs_nobody_a_result(
    retention: Retention, queue: JobQueue
) -> None:
    """Ended, by its stamp, an hour from now."""
    job = made(retention, queue, -HOUR)
    assert retention.sweep() == []
    assert there(retention, job)
    assert retention.table.get(job.id).state is State.ENDED  # type: ignore[union-attr]


class TestWhatAnOwnerKeeps:
    def test_a_photo_stays_as_long_as_its_job_if_that_is_wished(
        self, retention: Retention, queue: JobQueue
    ) -> None:
        kept, other = (made(retention, queue, keep_photo=wish) for wish in (True, False))
        assert queue.photo(kept.id) == b"photo"
        assert queue.photo(other.id) is None
        retention.sweep()
        assert queue.photo(kept.id) == b"photo"
        retention.remove([kept.id])
        assert photos_of(retention) == []

    def test_an_owner_finds_its_jobs_and_nobody_elses(
        self, retention: Retention, queue: JobQueue
    ) -> None:
        jobs = [made(retention, queue, owner=owner) for owner in ("ann", "bob", "ann")]
        waiting = queue.submit(VideoRequest(b"photo", VideoParams()), JobOptions(owner="ann"))
        found = queue.of_owner("ann")
        assert [job.id for job in found] == [waiting.id, jobs[2].id, jobs[0].id]
        assert [job.done for job in found] == [False, True, True]
        assert [job.id for job in queue.of_owner("ann", limit=1)] == [waiting.id]
        assert queue.of_owner("eve") == []

    def test_removing_leaves_alone_what_is_not_over(
        self, retention: Retention, queue: JobQueue
    ) -> None:
        over = made(retention, queue)
        waiting = queue.submit(VideoRequest(b"photo", VideoParams()))
        retention.remove([over.id, waiting.id])
        assert queue.get(waiting.id).done is False
        assert retention.table.get(over.id) is None
        assert not retention.results.path(over.id).exists()


class TestRooms:
    """What one owner does costs no other owner a result."""

    def test_photos_and_results_have_rooms_of_their_own(
        self, retention: Retention, queue: JobQueue
    ) -> None:
        old = made(retention, queue, age_s=3, size=3_000)
        kept = [
            made(retention, queue, 2, 100, photo=bytes([n]) * 6_000, keep_photo=True)
            for n in range(2)
        ]
        assert retention.sweep() == []
        assert there(retention, old)
        assert [queue.photo(job.id) is None for job in kept] == [True, False]
        assert len(photos_of(retention)) == 1

    def test_a_photo_counts_once(self, retention: Retention, queue: JobQueue) -> None:
        jobs = [made(retention, queue, 1, 100, bytes(6_000), keep_photo=True) for _ in range(5)]
        assert retention.sweep() == []
        assert all(queue.photo(job.id) for job in jobs)

    @pytest.mark.parametrize("keep_photo", [True, False])
    def test_jobs_that_came_to_nothing_keep_no_photo(
        self, retention: Retention, queue: JobQueue, keep_photo: bool
    ) -> None:
        """One upload, submitted and stopped a hundred times, took the videos of all owners away."""
        victim = made(retention, queue, age_s=9, size=9_000, owner="ann")
        for _ in range(100):
            options = JobOptions(owner="eve", keep_photo=keep_photo)
            queue.submit(VideoRequest(bytes(6_000), VideoParams()), options).cancel()
        assert photos_of(retention) == []
        assert retention.sweep() == []
        assert there(retention, victim)

    def test_whoever_holds_most_loses_their_own_oldest(
        self, retention: Retention, queue: JobQueue
    ) -> None:
        ann = [made(retention, queue, 100 - n, 1_500, owner="ann") for n in range(2)]
        eve = [made(retention, queue, 50 - n, 3_000, owner="eve") for n in range(4)]
        assert set(retention.sweep()) == {eve[0].id, eve[1].id}
        assert all(there(retention, job) for job in ann)

    def test_the_room_of_photos_is_looked_at_when_they_come(self, retention: Retention) -> None:
        limits = QueueLimits(max_queue=1000)
        queue = JobQueue(QueueContext(retention.table, limits)).start()
        for n in range(30):
            made(retention, queue, photo=bytes([n]) * 2_000, keep_photo=True)
            retention.sweep_photos()
            assert sum(map(len, photos_of(retention))) <= 10_000
        queue.close()

    def test_refused_requests_are_not_kept_without_limit(
        self, retention: Retention, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("svd_core.jobs.store.MAX_REJECTED", 20)
        video = made(retention, queue, owner="ann")
        other = queue.reject(
            InvalidRequest("link_repeats_setting", field="fps"), JobOptions(owner="ann")
        )
        flood = JobOptions(owner="eve", webhook="http://127.0.0.1:1/")
        jobs = [
            queue.reject(InvalidRequest("link_repeats_setting", field="fps"), flood)
            for _ in range(200)
        ]
        assert len(queue.of_owner("eve", 1000)) <= 20 + PRUNE_INTERVAL
        assert queue.get(jobs[-1].id).done
        assert queue.get(other.id).done
        assert there(retention, video)
        with retention.table.database.read() as connection:
            deliveries = connection.scalar(select(func.count()).select_from(OUTBOX))
        assert deliveries <= 20 + PRUNE_INTERVAL

    def test_rows_of_one_owner_do_not_push_out_those_of_others(
        self, retention: Retention, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MAX_ROWS", 10)
        video = made(retention, queue, age_s=9, owner="ann")
        for _ in range(20):
            queue.submit(VideoRequest(b"photo", VideoParams()), JobOptions(owner="eve")).cancel()
        gone = retention.sweep()
        assert len(gone) == 11
        assert there(retention, video)


class TestPhotos:
    def test_the_file_shrinks_when_they_go(
        self, retention: Retention, queue: JobQueue, tmp_path: Path
    ) -> None:
        """Deleted photos leave free pages, which the sweep gives back to the disk."""
        file = tmp_path / "jobs.sqlite"
        jobs = [submit(queue, bytes([n]) * 2_000_000) for n in range(10)]
        eventually(lambda: file.stat().st_size > 20_000_000)
        for job in jobs[1:]:
            job.cancel()
        retention.sweep()
        eventually(lambda: file.stat().st_size < 3_000_000)  # with the next checkpoint
        assert queue.photo(jobs[0].id) == bytes(2_000_000)

    def test_no_look_at_a_job_reads_its_photo(self, retention: Retention, queue: JobQueue) -> None:
        """Status polls must stay as fast with a photo of 20 MB."""
        statements: list[str] = []
        job = made(retention, queue, keep_photo=True)
        event.listen(
            retention.table.database._engine,
            "before_cursor_execute",
            lambda _, __, statement, *___: statements.append(statement),
        )
        queue.get(job.id)
        queue.of_owner("")
        retention.table.open_jobs()
        retention.sweep()
        assert len(statements) > 5
        assert not [statement for statement in statements if "svd_photos.data" in statement]
        assert queue.photo(job.id) == b"photo"
        assert "svd_photos.data" in statements[-1]

    def test_a_refused_job_leaves_none(
        self, retention: Retention, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While it was read, another one took the last place."""
        queue.submit(VideoRequest(b"first", VideoParams()))

        def ensure_room(_: JobOptions) -> None:
            raise QueueFull("queue_full", count=1)

        monkeypatch.setattr(queue, "ensure_room", ensure_room)
        with pytest.raises(QueueFull):
            queue.submit(VideoRequest(b"second", VideoParams()))
        assert photos_of(retention) == [b"first"]

    def test_a_photo_goes_with_the_last_job_that_needs_it(
        self, retention: Retention, queue: JobQueue
    ) -> None:
        request = VideoRequest(b"photo", VideoParams())
        first, second = queue.submit(request), queue.submit(request)
        first.cancel()
        assert len(photos_of(retention)) == 1
        second.cancel()
        assert photos_of(retention) == []

    def test_it_goes_when_the_job_is_made(self, retention: Retention, queue: JobQueue) -> None:
        made(retention, queue)
        assert photos_of(retention) == []

    def test_it_goes_when_its_job_is_removed(self, retention: Retention, queue: JobQueue) -> None:
        one, two = (made(retention, queue, keep_photo=True) for _ in range(2))
        retention.remove([one.id])
        assert queue.photo(two.id) == b"photo"
        retention.remove([two.id])
        assert photos_of(retention) == []


def photos_of(retention: Retention) -> list[bytes]:
    return stored_photos(retention.table)
