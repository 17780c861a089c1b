"""Finished videos on disk: one file per job, kept for a while."""

import errno
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from svd_core.errors import InvalidSettings, StorageFull, UnknownJob
from svd_core.video import PART

JOB_ID = re.compile(r"[A-Za-z0-9-]{1,64}")

STALE_S = 3600.0
"""An unfinished file untouched for so long is of a process that died; writing takes seconds."""


@dataclass(frozen=True)
class ResultStore:
    """Results in `folder`, which is made if it is missing.

    `keep_hours`: how long a result stays. `keep_gb`: how many gigabytes (10^9 bytes) stay, the
    oldest going first; the newest result stays in any case, somebody is waiting for it.
    Raises `InvalidSettings` for a folder that cannot be written, `StorageFull` for a full disk.
    """

    folder: Path
    keep_hours: float
    keep_gb: float

    def __post_init__(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder) as probe:
                probe.write(b"0")
        except OSError as error:
            raise _unusable(self.folder, error) from error

    def path(self, job_id: str) -> Path:
        """Where the video of `job_id` is or will be. Raises `UnknownJob` for what can be no id."""
        if not JOB_ID.fullmatch(job_id):
            raise UnknownJob("There is no job of that id; check the id you were given.")
        return self.folder / f"{job_id}.mp4"

    def sweep(self) -> list[Path]:
        """Remove what is too old or too much, and what dead processes left; returns those files."""
        now = time.time()
        videos = _by_age(self.folder, ".mp4")
        gone = [path for path, age, _ in _by_age(self.folder, PART) if now - age > STALE_S]
        gone += [path for path, made, _ in videos if now - made > self.keep_hours * 3600]
        room = self.keep_gb * 1e9
        for index, (path, _, size) in enumerate(reversed(videos)):
            room -= size
            if room < 0 and index > 0 and path not in gone:
                gone.append(path)
        for path in gone:
            path.unlink(missing_ok=True)
        return gone


def _by_age(folder: Path, suffix: str) -> list[tuple[Path, float, int]]:
    """(path, time of last change, bytes) of the files in `folder`, oldest first."""
    found = []
    for path in folder.iterdir():
        if path.suffix == suffix:
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue  # renamed or removed by another thread since it was listed
            found.append((path, stat.st_mtime, stat.st_size))
    return sorted(found, key=lambda entry: entry[1])


def _unusable(folder: Path, error: OSError) -> InvalidSettings | StorageFull:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"The disk of {folder} is full; free some room and start again.")
    return InvalidSettings(
        f"Results cannot be kept in {folder} ({reason}); "
        "set SVD_DATA_DIR to a folder that can be written."
    )
