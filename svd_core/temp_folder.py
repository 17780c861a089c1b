"""Temporary files: one folder inside the data folder, limited by age and total size.

Invariant: the folder alone is the record, so that files of a killed process are swept like the
rest. It contains uploads to the page, exports, and copies that Gradio makes.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from svd_core.storage import private_folder

EXPORT_FOLDER = "made"
"""Folder of the files that were made for one job or one visitor, by its key."""

EMPTY_S = 60.0
"""Seconds after which an empty folder goes."""


class _File(NamedTuple):
    age_s: float
    size: int
    path: Path


@dataclass(frozen=True)
class TempFolder:
    """Temporary files in `folder`, which is made and closed to other users (mode 700).

    They go `keep_s` seconds after they were written; where all together are more than `most_bytes`,
    the oldest go first. Raises `InvalidSettings`, `StorageFull`.
    """

    folder: Path
    keep_s: float
    most_bytes: float

    def __post_init__(self) -> None:
        private_folder(self.folder)

    def sweep(self) -> list[Path]:
        """Remove what is too old or too much. Returns those files."""
        room, gone = self.most_bytes, []
        for file in sorted(self._files()):
            room -= file.size
            if file.age_s > self.keep_s or room < 0:
                file.path.unlink(missing_ok=True)
                gone.append(file.path)
        self._remove_empty()
        return gone

    def _files(self) -> Iterator[_File]:
        now = time.time()
        for path in self.folder.rglob("*"):
            with suppress(FileNotFoundError):  # removed since it was listed
                found = path.lstat()
                if not path.is_dir() or path.is_symlink():
                    # A copy has the time of its original as the time of its last change.
                    written = max(found.st_mtime, found.st_ctime)
                    yield _File(now - written, found.st_size, path)

    def _remove_empty(self) -> None:
        """Remove folders that have been empty for a while; one that is new is about to be used."""
        folders = [path for path in self.folder.rglob("*") if path.is_dir()]
        for path in sorted(folders, reverse=True):
            with suppress(OSError):  # not empty, or gone
                if time.time() - path.stat().st_mtime > EMPTY_S:
                    path.rmdir()


def export_path(folder: Path, key: str, name: str) -> Path:
    """Where to write a file called `name` that belongs to `key`; it takes the place of an earlier
    one. `key`: not to be guessed, since it is part of the file's address."""
    own = folder / EXPORT_FOLDER / key
    own.mkdir(parents=True, exist_ok=True, mode=0o700)
    return own / name


def remove_copies(folder: Path, *keys: str) -> None:
    """Remove everything that was made for these keys, and copies of files named after them."""
    for key in keys:
        shutil.rmtree(folder / EXPORT_FOLDER / key, ignore_errors=True)
        for path in folder.glob(f"*/{key}.*"):
            path.unlink(missing_ok=True)
