"""Process liveness by file locks (flock), so that jobs of a dead process are requeued at once."""

from contextlib import suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: leases alone have to do there
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".alive"


class LivenessLock:
    """Lock on a file in `folder` named by `token`, held for the life of this process.

    The system releases the lock when the process ends in any way. Not thread-safe.
    """

    def __init__(self, folder: Path, token: str) -> None:
        self._folder = folder
        self._path = folder / f"{token}{SUFFIX}"
        self._file: IO[bytes] | None = None
        self._dead: set[str] = set()
        if fcntl is None:
            return
        draft = folder / token  # a lock is not seen under its name before it is one
        with suppress(OSError):  # a disk that knows no locks
            self._file = draft.open("wb")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.rename(self._path)
        for path in folder.glob(f"*{SUFFIX}"):
            self.is_dead(path.stem)

    def is_dead(self, token: str) -> bool:
        """Whether the process of `token` is known to be dead. Its lock file is removed then."""
        path = self._folder / f"{token}{SUFFIX}"
        if fcntl is not None and self._file is not None and path != self._path:
            with suppress(OSError), path.open("rb+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._dead.add(token)
                path.unlink()
        return token in self._dead

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)
