"""Which processes on this disk are gone for certain, so that nobody waits for their leases."""

from contextlib import suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: leases alone have to do there
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".alive"


class Lifeline:
    """A file in `folder`, named by `token`, that is locked for as long as this process lives: the
    system lets go of it the moment the process is gone, whatever ended it. Not thread-safe."""

    def __init__(self, folder: Path, token: str) -> None:
        self._folder = folder
        self._path = folder / f"{token}{SUFFIX}"
        self._file: IO[bytes] | None = None
        self._cut: set[str] = set()
        if fcntl is None:
            return
        draft = folder / token  # a lock is not seen under its name before it is one
        with suppress(OSError):  # a disk that knows no locks
            self._file = draft.open("wb")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.rename(self._path)
        for path in folder.glob(f"*{SUFFIX}"):
            self.is_cut(path.stem)

    def is_cut(self, token: str) -> bool:
        """Whether the process of `token` is known to be gone. Its file goes as well."""
        path = self._folder / f"{token}{SUFFIX}"
        if fcntl is not None and self._file is not None and path != self._path:
            with suppress(OSError), path.open("rb+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._cut.add(token)
                path.unlink()
        return token in self._cut

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)
