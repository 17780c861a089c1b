"""A job table and a video of an earlier version of the program still open."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import inspect, select, text, update

from svd_core.checkpoints.table import ASSETS
from svd_core.database import PAGE_BYTES, Database
from svd_core.errors import InvalidImage
from svd_core.events import Failed, Succeeded
from svd_core.jobs import (
    JobOptions,
    JobTable,
    LocalExecutor,
    QueueContext,
    WorkerQueue,
)
from svd_core.jobs.schema import JOBS, SEQUENCE, VERSION, State, create_tables
from svd_core.jobs.store import begin, new_row, photo_name
from svd_core.media.recipe import Recipe
from svd_core.params import VideoParams
from tests.fakes.job_events import ending, submit
from tests.fakes.work import FakeWork, front_queue, stored_photos

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


def old_jobs(database: Database, folder: Path) -> list[str]:
    """A table of version 1, with photos in files. Returns the ids of a job that the last server was
    killed with, of one that waits, and of one that has ended and whose photo is kept."""
    create_tables(database)
    table = JobTable(database)
    ids = []
    for kept in (False, False, True):
        row = new_row(VideoParams(seed=1), JobOptions(keep_photo=kept), table.clock.now())
        photo = b"kept" if kept else b"photo"
        ids.append(table.insert(replace(row, image=photo_name(photo)), photo).id)
    table.update(ids[0], State.WAITING, begin)
    table.update(ids[2], State.WAITING, lambda row, _: replace(row, state=State.ENDED))
    with database.write() as connection:
        for column in ("version INTEGER NOT NULL DEFAULT 3", "worker VARCHAR(32)"):
            connection.execute(text(f"ALTER TABLE svd_jobs ADD COLUMN {column}"))
        connection.execute(text("DROP TABLE svd_photos"))
        connection.execute(update(SEQUENCE).values(version=1))
    (folder / "photos").mkdir()
    for photo in (b"photo", b"kept", b"of no job"):
        (folder / "photos" / photo_name(photo)).write_bytes(photo)
    (folder / "photos" / f"{photo_name(b'photo')}.1a2b.part").write_bytes(b"pho")
    return ids


def test_a_table_from_when_servers_shared_it_is_migrated(url: str, tmp_path: Path) -> None:
    database = Database(url)
    ids = old_jobs(database, tmp_path)
    work = FakeWork(tmp_path)
    create_tables(database)
    table = JobTable(database)
    table.import_photos(tmp_path / "photos")
    assert stored_photos(table) == [b"kept", b"photo"]
    queue = WorkerQueue([LocalExecutor(work)], QueueContext(table)).start()
    assert all(isinstance(ending(queue.get(job_id)), Succeeded) for job_id in ids[:2])
    assert [request.image for request in work.requests] == [b"photo", b"photo"]
    assert queue.photo(ids[2]) == b"kept"
    queue.close()
    with database.read() as connection:
        names = {column["name"] for column in inspect(connection).get_columns("svd_jobs")}
        assert connection.scalar(select(SEQUENCE.c.version)) == VERSION
    assert names == set(JOBS.c.keys())
    attempts = {row.id: row.attempt for row in table.get_many(ids)}
    assert attempts == dict(zip(ids, (2, 1, 0), strict=True))
    assert not (tmp_path / "photos").exists()
    create_tables(database)  # and opens again
    table.import_photos(tmp_path / "photos")
    database.close()


@pytest.mark.parametrize("step", ["read_bytes", "unlink"])
def test_a_kill_while_photos_are_imported_loses_none(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Before or after each file is in the table."""
    database = Database(url)
    old_jobs(database, tmp_path)
    create_tables(database)
    table, original = JobTable(database), getattr(Path, step)
    for killed_at in (1, 2, 1):
        calls = count(1)

        def die(path: Path, *, at: int = killed_at, calls: Iterator[int] = calls) -> object:
            if next(calls) == at:
                raise KeyboardInterrupt
            return original(path)

        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(Path, step, die)
            table.import_photos(tmp_path / "photos")
        files = {path.read_bytes() for path in (tmp_path / "photos").glob("*")}
        assert {b"photo", b"kept"} <= {*files, *stored_photos(table)}
    table.import_photos(tmp_path / "photos")
    assert stored_photos(table) == [b"kept", b"photo"]
    assert not (tmp_path / "photos").exists()
    database.close()


def test_the_file_of_an_old_table_learns_to_shrink(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(DUMP.read_text(encoding="utf-8"))
        connection.execute("PRAGMA journal_mode = WAL")
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (0,)
    with front_queue(tmp_path) as queue:
        assert queue.get(MADE).done
    with closing(sqlite3.connect(path)) as connection:
        settings = [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("auto_vacuum", "page_size", "journal_mode")
        ]
    assert settings == [2, PAGE_BYTES, "wal"]


def test_an_old_table_that_another_program_reads_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svd_core.database.ADOPT_MS", 10)
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite")) as reader:
        reader.executescript(DUMP.read_text(encoding="utf-8"))
        reader.execute("PRAGMA journal_mode = WAL")
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM svd_jobs").fetchone() == (2,)
        with front_queue(tmp_path) as queue:
            job = submit(queue, b"photo")
            assert queue.photo(job.id) == b"photo"
            job.cancel()
            queue.table.database.shrink()


def test_the_recipe_of_an_old_video_is_read() -> None:
    recipe = Recipe.read(ASSETS / "examples" / "cat.mp4")
    assert recipe.model == "svd-nano"
    assert recipe.params.num_frames == 14
