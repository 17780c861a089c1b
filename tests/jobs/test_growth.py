"""Jobs that are over slow nothing. `benchmarks api --check` measures the time, and the memory."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, insert

from svd_core.events import Stopped
from svd_core.jobs import JobOptions, JobQueue, JobTable, QueueContext
from svd_core.jobs.schema import JOBS, State, append
from svd_core.jobs.store import begin, finish, new_row
from svd_core.params import VideoParams, VideoRequest
from tests.fakes.work import open_table

FINISHED = 1_000


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
def statements() -> Iterator[list[tuple[str, list[str]]]]:
    """Each statement from now on that looks for rows, and how SQLite goes about it."""
    plans: list[tuple[str, list[str]]] = []

    def explain(connection, cursor, statement, parameters, *_) -> None:  # type: ignore[no-untyped-def]
        if statement.startswith(("SELECT", "UPDATE")) and "svd_line" not in statement:
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.append((statement, [line[-1] for line in cursor.fetchall()]))

    event.listen(Engine, "before_cursor_execute", explain)
    yield plans
    event.remove(Engine, "before_cursor_execute", explain)


def test_no_statement_of_every_day_reads_the_whole_table(
    tmp_path: Path, statements: list[tuple[str, list[str]]]
) -> None:
    with open_table(tmp_path) as table:
        fill(table)
        with closing(JobQueue(QueueContext(table)).start()) as queue:
            del statements[:]  # of the start, which happens once
            first, second, third = (
                queue.submit(VideoRequest(b"", VideoParams()), JobOptions(owner="ann"))
                for _ in range(3)
            )
            table.update(first.id, State.WAITING, begin)
            table.update(first.id, State.RUNNING, lambda row, now: finish(row, now, Stopped()))
            table.open_jobs()
            second.cancel()
            queue.get(third.id)
            table.get("f" * 32)
            queue.of_owner("ann")
            table.recover()
    assert len(statements) > 12
    for statement, plan in statements:
        assert not [line for line in plan if line.startswith("SCAN svd_jobs")], statement
