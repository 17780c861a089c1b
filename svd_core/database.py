"""Database transactions for the job table; SQLAlchemy errors become errors of the core."""

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Connection, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    NoSuchModuleError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from svd_core.errors import InvalidSettings, QueueUnavailable, StorageFull, SvdError

BUSY_S = 30.0
"""Seconds that a writer waits for another one, in this process or of SQLite's file."""

CACHE_KIB = 256
"""Page cache of each SQLite connection, in KiB. The system caches the file anyway, and SQLite's
default of 2 MB would let the pool grow for an hour."""

PAGE_BYTES = 16384
"""Page size of new SQLite files. SQLite's default of 4096 doubles the time to write 5 MB."""

MAX_WAL_BYTES = 64 * 2**20
"""Size of SQLite's write-ahead log at which a commit waits for a checkpoint. Earlier ones, by
`Database.checkpoint`, delay no commit."""

SHRINK_PAGES = 256
"""Pages of SQLite's file to free at a time, so that other writers get their turn."""

ADOPT_MS = 1000
"""Milliseconds to wait for other programs that have an old SQLite file open."""

RETRY_S = 1.0
"""Seconds between two tries of a change that must not be lost."""

T = TypeVar("T")

log = logging.getLogger(__name__)

DISK_FULL_MESSAGES = (
    "database or disk is full",
    "No space left on device",
    "could not extend file",
)


class Database:
    """A database by its SQLAlchemy URL. Safe to use from any thread.

    The writers of this process take turns. SQLite runs in WAL mode, so that readers never wait.
    Raises `InvalidSettings` for a URL without a database.
    """

    def __init__(self, url: str) -> None:
        self._given_url = url
        try:
            self.url = make_url(url)
            self.is_sqlite = self.url.get_backend_name() == "sqlite"
            if self.is_sqlite:
                _make_file(self.url)
            self._engine = create_engine(
                self.url,
                pool_size=8,
                max_overflow=8,
                pool_pre_ping=not self.is_sqlite,  # a server may have been restarted
                connect_args={"timeout": BUSY_S} if self.is_sqlite else {},
            )
        except (ArgumentError, NoSuchModuleError, ImportError, OSError, ValueError) as error:
            raise _invalid_url(url, error) from None  # the cause may show a password
        self._write_lock = threading.RLock()
        if self.is_sqlite:
            event.listen(self._engine, "connect", _prepare_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        self._writing = self._engine.execution_options(svd_writes=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A read-only transaction. Raises `QueueUnavailable`."""
        with translate_errors(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction, committed if nothing is raised.

        Raises `QueueUnavailable`, `StorageFull`.
        """
        with self.serialized(), translate_errors(), self._writing.begin() as connection:
            yield connection

    @contextmanager
    def serialized(self) -> Iterator[None]:
        """Keep other threads from writing. SQLite alone would let them poll.

        Raises `QueueUnavailable`.
        """
        if not self._write_lock.acquire(timeout=BUSY_S):
            raise QueueUnavailable("queue_unavailable")
        try:
            yield
        finally:
            self._write_lock.release()

    def connect(self) -> Connection:
        """A connection outside the pool, in autocommit mode. Raises `QueueUnavailable`."""
        with translate_errors():
            engine = self._engine.execution_options(isolation_level="AUTOCOMMIT")
            connection = engine.connect()
            connection.detach()
            return connection

    def adopt_layout(self) -> None:
        """Rewrite an SQLite file of an older version, so that it takes photos fast and can shrink.

        Nothing changes if the disk is full or another program has the file open.
        """
        if not self.is_sqlite:
            return
        with translate_errors(), closing(self._engine.raw_connection()) as raw:
            cursor = raw.cursor()
            if cursor.execute("PRAGMA auto_vacuum").fetchone()[0]:
                return
            raw.detach()  # the pool must not get its settings
            try:
                cursor.execute(f"PRAGMA busy_timeout = {ADOPT_MS}")
                cursor.execute("PRAGMA journal_mode = DELETE")
                _set_layout(cursor)
                cursor.execute("VACUUM")
            except sqlite3.Error as error:
                log.warning(
                    "Cannot compact the job table, so its file will not shrink: %s. "
                    "Free some disk space and restart.", error,
                )  # fmt: skip
            cursor.execute("PRAGMA journal_mode = WAL")

    def shrink(self) -> None:
        """Return the space of deleted rows to the disk. Other databases do so by themselves."""
        if not self.is_sqlite:
            return
        with translate_errors(), closing(self._engine.raw_connection()) as raw:
            cursor = raw.cursor()
            if not cursor.execute("PRAGMA auto_vacuum").fetchone()[0]:
                return
            while cursor.execute("PRAGMA freelist_count").fetchone()[0]:
                with self.serialized():
                    cursor.execute(f"PRAGMA incremental_vacuum({SHRINK_PAGES})").fetchall()
        self.checkpoint()

    def checkpoint(self) -> None:
        """Copy SQLite's write-ahead log into its file without blocking. Call it every second."""
        if self.is_sqlite:
            with translate_errors(), closing(self._engine.raw_connection()) as raw:
                raw.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    @contextmanager
    def first_contact(self) -> Iterator[None]:
        """Wraps the first use of the database. Raises `InvalidSettings` if it cannot be opened."""
        try:
            yield
        except QueueUnavailable as error:
            raise _invalid_url(self._given_url, error.__cause__ or error) from None

    def close(self) -> None:
        self._engine.dispose()


def redacted_url(url: URL) -> str:
    """`url` without user, password and options, which may be secret."""
    public = URL.create(url.drivername, host=url.host, port=url.port, database=url.database)
    return public.render_as_string()


def _invalid_url(url: str, error: BaseException) -> InvalidSettings:
    """The error for a URL that cannot be opened, without its secrets."""
    where, why = "SVD_DATABASE_URL", ""
    with suppress(ArgumentError, ValueError):
        parsed = make_url(url)
        where = redacted_url(parsed)
        reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        if reason and not any(secret in reason for secret in _secrets(url, parsed)):
            why = f" ({reason})"
    return InvalidSettings("database_unreachable", where=where, why=why)


def _secrets(url: str, parsed: URL) -> list[str]:
    options = [parsed.query[key] for key in parsed.query if key not in ("host", "port")]
    values = [value for each in options for value in ([each] if isinstance(each, str) else each)]
    return [secret for secret in (url, str(parsed.password or ""), *values) if secret]


def retry_until_written(change: Callable[[], T], closing: threading.Event) -> T | None:
    """Retry `change` until it is written. Returns its result; None once `closing` is set.

    For results that cost minutes of work or a download.
    """
    while True:
        try:
            return change()
        except (QueueUnavailable, StorageFull) as error:
            log.warning("Cannot save the state of a job, retrying: %s", error)
            if closing.wait(RETRY_S):
                return None


def _make_file(url: URL) -> None:
    """Create an empty database that only its owner can read, since URLs in it have tokens.

    SQLite gives the files beside it the same mode.
    """
    if not url.database or url.database.startswith((":memory:", "file:")):
        return
    path = Path(url.database)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT, 0o600))
    for file in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
        with suppress(OSError):  # missing, another user's, or on a disk without modes
            file.chmod(0o600)


def _prepare_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    """Turn off the driver's own transactions, which begin late and deadlock."""
    connection.isolation_level = None
    cursor = connection.cursor()
    if not cursor.execute("PRAGMA page_count").fetchone()[0]:
        _set_layout(cursor)
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute(f"PRAGMA wal_autocheckpoint = {MAX_WAL_BYTES // PAGE_BYTES}")
    cursor.execute(f"PRAGMA journal_size_limit = {MAX_WAL_BYTES}")
    cursor.execute("PRAGMA synchronous = FULL")  # an accepted job outlives a power cut
    cursor.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    cursor.close()


def _set_layout(cursor: DBAPICursor) -> None:
    """Takes effect with the first table of a file, or when the file is rewritten."""
    cursor.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("svd_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise errors of the database as `QueueUnavailable` or `StorageFull`."""
    try:
        yield
    except (IntegrityError, DataError, ProgrammingError):
        raise  # a fault of the program, not of the database
    except (DatabaseError, InterfaceError, PoolTimeout, sqlite3.Error) as error:
        raise _to_svd_error(error) from error


def _to_svd_error(error: Exception) -> SvdError:
    if any(message in str(error) for message in DISK_FULL_MESSAGES):
        return StorageFull("database_disk_full")
    return QueueUnavailable("queue_unavailable")
