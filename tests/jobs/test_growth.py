"""A long life costs nothing: neither time, for the jobs that are over, nor memory."""

import gc
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
from sqlalchemy import event, insert

from svd_core.events import OnProgress, Progress, Stage, Stopped, Video
from svd_core.jobs import JobOptions, JobQueue, JobTable, QueueContext, QueueLimits
from svd_core.jobs.schema import JOBS, State, append
from svd_core.jobs.store import begin, finish, new_row
from svd_core.params import VideoParams, VideoRequest
from tests.fakes.work import open_table, worker_queue

FINISHED = 10_000


def fill(table: JobTable) -> None:
    """As many jobs as that, over since yesterday."""
    row = new_row(VideoParams(seed=1), JobOptions(owner="ann", memo="m" * 200), table.clock.now())
    row = replace(row, state=State.ENDED, ended=row.submitted, attempt=1)
    row = replace(row, record=append(row.record, Stopped(), row.record[0].at))
    columns = row.to_columns()
    rows = [columns | {"id": f"{n:032x}", "number": -n} for n in range(1, FINISHED + 1)]
    with table.database.write() as connection:
        connection.execute(insert(JOBS), rows)


@pytest.fixture
def queues(tmp_path: Path) -> Iterator[tuple[JobQueue, JobQueue]]:
    """One on an empty table, and one on a table with a past."""
    folders = [tmp_path / "empty", tmp_path / "full"]
    for folder in folders:
        folder.mkdir()
    with open_table(folders[0]) as empty, open_table(folders[1]) as full:
        fill(full)
        limits = QueueLimits(max_queue=1000, max_per_owner=1000)
        made = [
            JobQueue(QueueContext(table, limits)).start()
            for table, folder in zip((empty, full), folders, strict=True)
        ]
        yield made[0], made[1]
        for queue in made:
            queue.close()


def timed(do: Callable[[], object]) -> float:
    begin = time.perf_counter()
    do()
    return time.perf_counter() - begin


@pytest.mark.alone
def test_jobs_that_are_over_slow_nothing(queues: tuple[JobQueue, JobQueue]) -> None:
    request, options = VideoRequest(b"photo", VideoParams(seed=1)), JobOptions(owner="ann")
    submits: tuple[list[float], list[float]] = ([], [])
    polls: tuple[list[float], list[float]] = ([], [])
    for turn in range(150):
        for index in (0, 1) if turn % 2 else (1, 0):  # neighbours, so that noise meets both
            queue = queues[index]
            submits[index].append(timed(lambda queue=queue: queue.submit(request, options)))
    for turn in range(300):
        for index in (0, 1) if turn % 2 else (1, 0):
            queue = queues[index]
            job_id = queue._open_jobs.line()[0].id
            found = queue.get(job_id)
            poll = timed(
                lambda q=queue, j=job_id, f=found: (q.get(j), q.position(j), f.events_since())
            )
            polls[index].append(poll)
    assert median(submits[1]) <= 1.2 * median(submits[0])
    assert median(polls[1]) <= 1.2 * median(polls[0])
    assert median(polls[1]) < 0.001


def test_no_statement_of_every_day_reads_the_whole_table(
    queues: tuple[JobQueue, JobQueue],
) -> None:
    """By what SQLite says of how it will go about them."""
    queue = queues[1]
    table, plans = queue._table, []

    def explain(connection, cursor, statement, parameters, *_) -> None:  # type: ignore[no-untyped-def]
        if statement.startswith(("SELECT", "UPDATE")) and "svd_line" not in statement:
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.append((statement, [line[-1] for line in cursor.fetchall()]))

    event.listen(table.database._engine, "before_cursor_execute", explain)
    first, second, third = (
        queue.submit(VideoRequest(b"", VideoParams()), JobOptions(owner="ann")) for _ in range(3)
    )
    table.update(first.id, State.WAITING, begin)
    table.update(first.id, State.RUNNING, lambda row, now: finish(row, now, Stopped()))
    table.open_jobs()
    second.cancel()
    queue.get(third.id)
    table.get("f" * 32)
    queue.of_owner("ann")
    table.recover()
    assert len(plans) > 12
    for statement, plan in plans:
        assert not [line for line in plan if line.startswith("SCAN svd_jobs")], statement


def test_memory_is_flat_over_a_thousand_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(job_id: str, _: VideoRequest, on_progress: OnProgress) -> Video:
        for step in range(3):
            on_progress(Progress(stage=Stage.DENOISING, step=step, total=3))
        return Video(
            path=Path("/nowhere"), width=64, height=64, num_frames=2, fps=7, seed=1, model="fake",
            elapsed_s=0.1,
        )  # fmt: skip

    def hurry(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")  # the disk is not what is measured

    monkeypatch.setattr("svd_core.storage.os.fsync", lambda _: None)
    with worker_queue(tmp_path, work, 100) as queue:
        event.listen(queue._table.database._engine, "checkout", hurry)
        request = VideoRequest(b"photo", VideoParams(seed=1))

        def run(count: int) -> int:
            """Number of objects after `count` jobs were watched to their end."""
            for _ in range(count // 50):
                for job in [queue.submit(request) for _ in range(50)]:
                    assert [*job.events()][-1] == job.last
            gc.collect()
            return len(gc.get_objects())

        counts = [run(250)]  # as many as are remembered, and some
        counts += [run(500) for _ in range(2)]
        grown = [after - before for before, after in pairwise(counts)]
        assert min(grown) < 250  # what is kept of one job costs dozens, each time
