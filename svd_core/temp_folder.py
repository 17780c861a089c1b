"""Temporary files: one folder inside the data folder, limited by age and total size.

Invariant: the folder is the only record, so files of a killed process are swept like the rest. It
contains uploads to the page, exports, and copies that Gradio makes.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from svd_core.storage import private_folder

EXPORT_FOLDER = "made"
"""Folder of the files made for one job or visitor, in a subfolder by its key."""

EMPTY_S = 60.0
"""Seconds after which an empty folder is removed."""


@dataclass(frozen=True)
class TempFolder:
    """Temporary files in `folder`, which is made and closed to other users (mode 700).

    They are removed after `keep_s` seconds. If they have more than `most_bytes` together, the
    oldest are removed first. Raises `InvalidSettings`, `StorageFull`.
    """

    folder: Path
    keep_s: float
    most_bytes: float

    def __post_init__(self) -> None:
        private_folder(self.folder)

    def sweep(self) -> list[Path]:
        """Remove files beyond the limits. Returns them."""
        room, gone = self.most_bytes, []
        for age_s, size, path in sorted(self._files()):
            room -= size
            if age_s > self.keep_s or room < 0:
                path.unlink(missing_ok=True)
                gone.append(path)
        self._remove_empty()
        return gone

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """(age in seconds, bytes, path) of all files."""
        now = time.time()
        for path in self.folder.rglob("*"):
            with suppress(FileNotFoundError):  # removed meanwhile
                stat = path.lstat()
                if not path.is_dir() or path.is_symlink():
                    # A copy may have the modification time of its original.
                    yield now - max(stat.st_mtime, stat.st_ctime), stat.st_size, path

    def _remove_empty(self) -> None:
        """Remove folders that have been empty for a while. A new one is still to be filled."""
        folders = [path for path in self.folder.rglob("*") if path.is_dir()]
        for path in sorted(folders, reverse=True):
            with suppress(OSError):  # not empty, or gone
                if time.time() - path.stat().st_mtime > EMPTY_S:
                    path.rmdir()


def export_path(folder: Path, key: str, name: str) -> Path:
    """Path for the file `name` of `key`, which replaces an earlier one.

    `key`: unguessable, since it is part of the file's URL.
    """
    subfolder = folder / EXPORT_FOLDER / key
    subfolder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return subfolder / name


def remove_copies(folder: Path, *keys: str) -> None:
    """Remove all files made for these keys, and copies of files named after them."""
    for key in keys:
        shutil.rmtree(folder / EXPORT_FOLDER / key, ignore_errors=True)
        for path in folder.glob(f"*/{key}.*"):
            path.unlink(missing_ok=True)
