"""A job table and a video of an earlier version of the program still open."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from sqlalchemy import inspect, select, text, update

from svd_core.checkpoints.table import ASSETS
from svd_core.database import Database
from svd_core.errors import InvalidImage
from svd_core.events import Failed, Succeeded
from svd_core.jobs import JobOptions, JobTable, LocalExecutor, WorkerQueue
from svd_core.jobs.schema import JOBS, SEQUENCE, VERSION, State
from svd_core.jobs.store import begin, new_row
from svd_core.media.recipe import Recipe
from svd_core.params import VideoParams
from svd_core.storage import PhotoStore
from tests.fakes.job_events import ending
from tests.fakes.work import FakeWork, front_queue, premises

DUMP = Path(__file__).parent / "data" / "table_v1.sql"
MADE, REJECTED = "963d5ac115b0493a8b9144a79ebc8560", "c3d82e2a278a4b0686256c95674dbd37"


def test_jobs_of_an_old_table_come_back_as_they_were(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite")) as connection:
        connection.executescript(DUMP.read_text(encoding="utf-8"))
    with front_queue(tmp_path) as queue:
        made, rejected = queue.get(MADE), queue.get(REJECTED)
        assert [job.id for job in queue.of_owner("ann")] == [REJECTED, MADE]
    assert made.params is not None
    assert (made.params.seed, made.params.motion_bucket_id) == (7, 80)
    assert made.options.memo == '{"sheet": "a"}'
    assert isinstance(made.last, Succeeded)
    assert made.last.video.path == Path(f"/videos/{MADE}.mp4")
    assert isinstance(rejected.last, Failed)
    assert type(rejected.last.error) is InvalidImage
    assert (rejected.last.error.field, rejected.last.error.code) == ("image", "invalid_image")
    assert str(rejected.last.error) == "The photo is damaged."


def test_a_table_from_when_servers_shared_it_is_migrated(url: str, tmp_path: Path) -> None:
    """With a job that waits, and one that the last server was killed with."""
    database = Database(url)
    table = JobTable(database)
    photo = PhotoStore(tmp_path / "photos").put(b"photo")
    ids = []
    for _ in range(2):
        row = new_row(VideoParams(seed=1), JobOptions(), table.clock.now())
        ids.append(table.insert(replace(row, image=photo)).id)
    table.update(ids[0], State.WAITING, begin)
    with database.write() as connection:
        for column in ("version INTEGER NOT NULL DEFAULT 3", "worker VARCHAR(32)"):
            connection.execute(text(f"ALTER TABLE svd_jobs ADD COLUMN {column}"))
        connection.execute(update(SEQUENCE).values(version=1))
    work = FakeWork(tmp_path)
    queue = WorkerQueue([LocalExecutor(work)], premises(JobTable(database), tmp_path))
    assert all(isinstance(ending(queue.get(job_id)), Succeeded) for job_id in ids)
    queue.close()
    with database.read() as connection:
        names = {column["name"] for column in inspect(connection).get_columns("svd_jobs")}
        assert connection.scalar(select(SEQUENCE.c.version)) == VERSION
    assert names == set(JOBS.c.keys())
    assert {row.id: row.attempt for row in table.get_many(ids)} == {ids[0]: 2, ids[1]: 1}
    JobTable(database)  # and opens again
    database.close()


def test_the_recipe_of_an_old_video_is_read() -> None:
    recipe = Recipe.read(ASSETS / "examples" / "cat.mp4")
    assert recipe.model == "svd-nano"
    assert recipe.params.num_frames == 14
