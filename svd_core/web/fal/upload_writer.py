"""Upload writer: one file on its way to disk, within the limits of file and key."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from svd_core.errors import StorageFull
from svd_core.web.fal.responses import ApiError, request_error

MAX_FILES = 1000
"""Files of one key. Each is looked at when another comes, empty ones too."""

CHECK_INTERVAL_BYTES = 8 * 2**20
"""Bytes after which the space used is looked at again: other uploads of the key go on meanwhile."""


@dataclass(frozen=True)
class UploadLimits:
    """`file`: bytes of one file; `owner`: of all files of one key; `all`: of all files.
    `keep_s`: seconds a file stays. `count`: files of one key, parts included."""

    file: int
    owner: int
    all: int
    keep_s: float
    count: int = 2000


class UploadWriter:
    """A file that is being written. Give it its pieces in turn.

    `path`: where it is going to be; `owned`: the folder with all files of the same key.
    """

    def __init__(self, limits: UploadLimits, path: Path, owned: Path) -> None:
        self.draft = path.with_name(f"{path.name}.{uuid4().hex[:8]}.part")
        self.size = 0
        self._limits = limits
        self._owned = owned
        self._next_look = 0
        self._hash = hashlib.sha256()
        self._file: int | None = None

    @property
    def etag(self) -> str:
        return self._hash.hexdigest()[:32]

    def open(self) -> None:
        """Raises `ApiError` where the key has too many files."""
        if sum(1 for _ in files_in(self._owned)) >= MAX_FILES:
            raise too_many_files_error()
        self.draft.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def expect(self, size: int) -> None:
        """Refuse at once what is going to be too much. Raises `ApiError`."""
        limits = self._limits
        if size > min(limits.file, limits.owner - self._used()):
            raise too_large_error(limits)

    def write(self, piece: bytes) -> None:
        """Raises `ApiError` for too much, `StorageFull` for a full disk."""
        assert self._file is not None
        limits, self.size = self._limits, self.size + len(piece)
        if self.size > limits.file:
            raise too_large_error(limits)
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        self._hash.update(piece)
        if self.size >= self._next_look:
            self._next_look += CHECK_INTERVAL_BYTES
            if self._used() > limits.owner:
                raise too_large_error(limits)

    def _used(self) -> int:
        """Bytes of all files of the key, this one included. Raises `ApiError` for too many
        files."""
        sizes = [size for _, _, size in files_in(self._owned)]
        if len(sizes) > self._limits.count:
            detail = (
                f"There are {self._limits.count} uploads of this key already, which is as many as "
                "are kept; please try again when the oldest are gone."
            )
            raise ApiError(request_error(413, detail, "file_too_large"))
        return sum(sizes)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def too_large_error(limits: UploadLimits) -> ApiError:
    detail = (
        f"This is more than the {limits.file >> 20} MB of one file, or together with earlier "
        f"uploads more than the {limits.owner / 1e9:g} GB that are kept for a key."
    )
    return ApiError(request_error(413, detail, "file_too_large"))


def too_many_files_error() -> ApiError:
    detail = (
        f"{MAX_FILES} uploads are kept for a key, and there are as many already; please try again "
        "when the oldest have expired."
    )
    return ApiError(request_error(429, detail, "too_many_files"))


@contextmanager
def storage_errors() -> Iterator[None]:
    """Raises `StorageFull` where the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("The server's disk is full; please try again later.") from error
        raise


def files_in(folder: Path) -> Iterator[tuple[Path, float, int]]:
    """(path, time of change, bytes) of all files below `folder`; they may go while it looks."""
    for inside, _, names in os.walk(folder):
        for name in names:
            path = Path(inside, name)
            with suppress(FileNotFoundError):
                stat = path.stat()
                yield path, stat.st_mtime, stat.st_size
