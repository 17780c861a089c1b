"""Owner lock: one server process owns the job table, and a second one waits as a warm standby.

The system frees the lock when its process ends in any way, and the standby takes over.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from svd_core.database import Database, redacted_url, translate_errors
from svd_core.errors import InvalidSettings, QueueUnavailable

POLL_S = 0.1
"""Seconds between two tries of a standby, and between two checks that the lock still holds."""

ADVISORY_KEY = int.from_bytes(b"svd_jobs")
"""Key of the advisory lock: 64 bits that other programs are unlikely to use."""

KEEPALIVE = {"idle": 5, "interval": 5, "count": 3}
"""TCP settings by which the database notices the loss of an owner's machine within 20 s."""

LOST = (
    "The database connection that locks the job table was lost, so this server ends before "
    "another one takes over. Start it again."
)


class OwnerLock(ABC):
    """Exclusive lock on the job table of `database`."""

    grace_s = 0.0
    """Seconds that a standby waits after it got the lock."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def of(cls, database: Database, folder: Path, on_lost: Callable[[str], None]) -> "OwnerLock":
        """An advisory lock of PostgreSQL, or a locked file beside SQLite's.

        With other databases it is a file in `folder`, which two machines must share to exclude each
        other. `on_lost` is called with a sentence if the lock is lost; this process must end then.
        """
        if database.url.get_backend_name() == "postgresql":
            return AdvisoryLock(database, on_lost)
        name = database.url.database if database.is_sqlite else None
        table = folder / "jobs" if name in (None, "", ":memory:") else Path(name)
        return LockFile(database, table.with_suffix(".lock"))

    def acquire(self, stop: threading.Event, on_wait: Callable[[str], None]) -> bool:
        """Wait until this process owns the table. Returns False once `stop` is set.

        `on_wait` is called once, with a sentence, if another process owns it. Raises
        `InvalidSettings` if there can be no lock.
        """
        with self._database.first_contact():
            if self.try_acquire():
                return True
        on_wait(
            f"Another server owns the job table at {redacted_url(self._database.url)}. This one "
            "waits and takes over when the other one ends."
        )
        while not stop.wait(POLL_S):
            with suppress(QueueUnavailable):  # the database is down for the moment
                if self.try_acquire():
                    return not stop.wait(self.grace_s)
        return False

    @abstractmethod
    def try_acquire(self) -> bool: ...

    @abstractmethod
    def close(self) -> None:
        """Release the lock."""


class LockFile(OwnerLock):
    """Lock on a file (flock). The file stays: after a deletion two processes could lock it."""

    def __init__(self, database: Database, path: Path) -> None:
        super().__init__(database)
        self._path = path
        self._lock = FileLock(path, mode=0o600, thread_local=False)

    def try_acquire(self) -> bool:
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            return False
        except (OSError, NotImplementedError) as error:
            raise InvalidSettings(
                "lock_unsupported", path=str(self._path), reason=str(error)
            ) from error
        return True

    def close(self) -> None:
        self._lock.release()


class AdvisoryLock(OwnerLock):
    """Advisory lock of PostgreSQL on its own connection, with a thread that watches it."""

    grace_s = 3 * POLL_S  # by then an owner without a connection has noticed

    def __init__(self, database: Database, on_lost: Callable[[str], None]) -> None:
        super().__init__(database)
        self._on_lost = on_lost
        self._connection: Connection | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="svd-owner", daemon=True)

    def try_acquire(self) -> bool:
        try:
            connection = self._connection = self._connection or self._database.connect()
            with translate_errors():
                for name, value in KEEPALIVE.items():
                    connection.exec_driver_sql(f"SET tcp_keepalives_{name} = {value}")
                query = text("SELECT pg_try_advisory_lock(:key)")
                is_locked = bool(connection.scalar(query, {"key": ADVISORY_KEY}))
        except QueueUnavailable:
            self._disconnect()  # the next try connects again
            raise
        if is_locked:
            self._thread.start()
        return is_locked

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError):
                connection.close()

    def _watch(self) -> None:
        assert self._connection is not None
        while not self._closing.wait(POLL_S):
            try:
                self._connection.exec_driver_sql("SELECT 1")
            except SQLAlchemyError:
                self._on_lost(LOST)
                return
