"""One process owns the job table; a second one waits, says so, and takes over when it ends."""

import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from sqlalchemy import text

from svd_core.database import Database
from svd_core.errors import InvalidSettings
from svd_core.owner_lock import LOST, OwnerLock
from tests.fakes.errors import has_code
from tests.fakes.job_events import SECONDS, eventually


@contextmanager
def opened(url: str) -> Iterator[Database]:
    database = Database(url)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def owner(url: str, folder: Path) -> Iterator[ForkServerProcess]:
    """A process that owns the table; killed at the end, if it is not dead by then."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    ours, theirs = context.Pipe()
    process = context.Process(target=own, args=(url, folder, theirs))
    process.start()
    theirs.close()
    try:
        assert ours.recv() is True
        yield process
    finally:
        process.kill()
        process.join()
        process.close()
        ours.close()


def own(url: str, folder: Path, told: Connection) -> None:
    lock = OwnerLock.of(Database(url), folder, pytest.fail)
    told.send(lock.acquire(threading.Event(), pytest.fail))
    threading.Event().wait()


class Standby:
    """A second server, which waits in a thread of this process. `sentences`: what it says."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.sentences: list[str] = []
        self.lost: list[str] = []
        self.stop = threading.Event()
        self.owns: bool | None = None
        self.lock = OwnerLock.of(database, folder, self.lost.append)
        self._thread = threading.Thread(target=self._wait)
        self._thread.start()

    def _wait(self) -> None:
        self.owns = self.lock.acquire(self.stop, self.sentences.append)

    def close(self) -> None:
        self.stop.set()
        self._thread.join(SECONDS)
        self.lock.close()


@contextmanager
def standby(database: Database, folder: Path) -> Iterator[Standby]:
    waiting = Standby(database, folder)
    try:
        yield waiting
    finally:
        waiting.close()


def test_a_standby_says_that_it_waits_and_takes_over_from_a_killed_owner(
    url: str, tmp_path: Path
) -> None:
    with owner(url, tmp_path) as first, opened(url) as database, standby(database, tmp_path) as two:
        eventually(lambda: two.sentences)
        first.kill()
        eventually(lambda: two.owns)
    (sentence,) = two.sentences
    assert sentence.startswith("Another server owns the job table at ")
    assert database.url.get_backend_name() in sentence
    assert two.lost == []


def test_an_owner_that_ends_politely_hands_over(url: str, tmp_path: Path) -> None:
    with opened(url) as ours, opened(url) as theirs, standby(ours, tmp_path) as first:
        eventually(lambda: first.owns)
        with standby(theirs, tmp_path) as second:
            eventually(lambda: second.sentences)
            assert second.owns is None
            first.close()
            eventually(lambda: second.owns)
            assert first.sentences == []


def test_a_standby_that_is_stopped_leaves_the_owner_alone(url: str, tmp_path: Path) -> None:
    with owner(url, tmp_path), opened(url) as database, standby(database, tmp_path) as two:
        eventually(lambda: two.sentences)
        two.stop.set()
        eventually(lambda: two.owns is False)
        with standby(database, tmp_path) as three:
            eventually(lambda: three.sentences)
            assert three.owns is None


def test_tables_in_two_files_have_two_owners(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path / name / 'jobs.sqlite'}" for name in ("one", "two")]
    with (
        opened(urls[0]) as one,
        opened(urls[1]) as two,
        standby(one, tmp_path) as first,
        standby(two, tmp_path) as second,
    ):
        eventually(lambda: first.owns and second.owns)
        assert first.sentences == second.sentences == []


def test_one_file_has_one_owner_whatever_the_data_folder(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    with (
        owner(url, tmp_path / "one"),
        opened(url) as database,
        standby(database, tmp_path / "two") as two,
    ):
        eventually(lambda: two.sentences)
        assert two.owns is None
    assert (tmp_path / "jobs.lock").stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_locked_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "jobs.lock").mkdir()
    with opened(f"sqlite:///{tmp_path / 'jobs.sqlite'}") as database:
        lock = OwnerLock.of(database, tmp_path, pytest.fail)
        with pytest.raises(InvalidSettings, check=has_code("lock_unsupported")):
            lock.acquire(threading.Event(), pytest.fail)


def test_a_database_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with opened("postgresql+psycopg://ann:s3cret@127.0.0.1:9/x") as database:
        lock = OwnerLock.of(database, tmp_path, pytest.fail)
        with pytest.raises(InvalidSettings, match="SVD_DATABASE_URL") as caught:
            lock.acquire(threading.Event(), pytest.fail)
        lock.close()
    assert "s3cret" not in str(caught.value)


def cut(database: Database, *, owner: bool) -> None:
    """End the connection of the owner, or those of all that wait."""
    sessions = text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE "
        "application_name = 'standby' AND :owner = (pid IN "
        "(SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted))"
    )
    with database.read() as connection:
        assert connection.scalar(sessions, {"owner": owner}) == 1


@contextmanager
def two_servers(url: str, folder: Path) -> Iterator[tuple[Standby, Standby, Database]]:
    """The owner and one that waits, and a database to look at them."""
    named = f"{url}&application_name=standby"
    with opened(named) as ours, opened(url) as watching, standby(ours, folder) as first:
        eventually(lambda: first.owns)
        with opened(named) as theirs, standby(theirs, folder) as second:
            eventually(lambda: second.sentences)
            yield first, second, watching


def test_an_owner_whose_connection_is_cut_is_told_and_the_standby_takes_over(
    postgres_url: str, tmp_path: Path
) -> None:
    with two_servers(postgres_url, tmp_path) as (first, second, database):
        cut(database, owner=True)
        eventually(lambda: second.owns)
        assert first.lost == [LOST]
        assert second.lost == []


def test_a_standby_whose_connection_is_cut_goes_on_waiting(
    postgres_url: str, tmp_path: Path
) -> None:
    with two_servers(postgres_url, tmp_path) as (first, second, database):
        cut(database, owner=False)
        first.close()
        eventually(lambda: second.owns)
        assert first.lost == []
