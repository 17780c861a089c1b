"""Upload store: files on disk, limited for each key, deleted when they expire.

The folder is the only record. Each key has its own folder, and the modification time of a file is
the time when it expires.
"""

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from uuid import uuid4

from svd_core.errors import StorageFull
from svd_core.web.fal.responses import ApiError, request_error
from svd_core.web.fal.signed_tokens import SignedTokens

MAX_FILES = 1000
"""Files of one key, counted for every new one. Empty files count too."""

CHECK_INTERVAL_BYTES = 8 * 2**20
"""Bytes between two checks of the used space, which other uploads of the key use too."""


@dataclass(frozen=True)
class UploadLimits:
    """Limits of uploads.

    `file`: bytes of one file; `owner`: of all files of one key; `all`: of all files. `keep_s`:
    seconds a file stays. `count`: files of one key, parts included.
    """

    file: int
    owner: float
    all: float
    keep_s: float
    count: int = 2000


class UploadWriter:
    """Writer of one file, piece by piece, within the limits of file and key.

    `path`: final path; `owned`: folder with all files of the same key. Raises `ApiError` if the key
    has too many files.
    """

    def __init__(self, limits: UploadLimits, path: Path, owned: Path) -> None:
        self.draft = path.with_name(f"{path.name}.{uuid4().hex[:8]}.part")
        self.size = 0
        self._limits = limits
        self._owned = owned
        self._next_check = 0
        self._hash = hashlib.sha256()
        if sum(1 for _ in files_in(owned)) >= MAX_FILES:
            raise too_many_files_error(429, "too_many_files", MAX_FILES)
        self.draft.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        self._file = os.fdopen(os.open(self.draft, flags, 0o600), "wb", buffering=0)

    @property
    def etag(self) -> str:
        return self._hash.hexdigest()[:32]

    def expect(self, size: int) -> None:
        """Check the announced size. Raises `ApiError` if it is too large."""
        limits = self._limits
        if size > min(limits.file, limits.owner - self._used()):
            raise too_large_error(limits)

    def write(self, piece: bytes) -> None:
        """Append a piece. Raises `ApiError` beyond a limit, `StorageFull` for a full disk."""
        limits, self.size = self._limits, self.size + len(piece)
        if self.size > limits.file:
            raise too_large_error(limits)
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(self._file.fileno(), rest) :]
        self._hash.update(piece)
        if self.size >= self._next_check:
            self._next_check += CHECK_INTERVAL_BYTES
            if self._used() > limits.owner:
                raise too_large_error(limits)

    def _used(self) -> int:
        """Bytes of all files of the key, this one included. Raises `ApiError` for too many."""
        sizes = [size for _, _, size in files_in(self._owned)]
        if len(sizes) > self._limits.count:
            raise too_many_files_error(413, "file_too_large", self._limits.count)
        return sum(sizes)

    def close(self) -> None:
        self._file.close()


def too_large_error(limits: UploadLimits) -> ApiError:
    detail = (
        f"A file can have {limits.file >> 20} MB, and all uploads of a key together "
        f"{limits.owner / 1e9:g} GB. Send a smaller file, or wait until older ones have expired."
    )
    return ApiError(request_error(413, detail, "file_too_large"))


def too_many_files_error(status: int, kind: str, count: int) -> ApiError:
    detail = f"This key already has {count} uploads. Please try again when the oldest have expired."
    return ApiError(request_error(status, detail, kind))


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn the errors of a full disk into `StorageFull`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("upload_disk_full") from error
        raise


def files_in(folder: Path) -> Iterator[tuple[Path, float, int]]:
    """(path, modification time, bytes) of all files below `folder` that still exist."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            with suppress(FileNotFoundError):
                stat = path.stat()
                yield path, stat.st_mtime, stat.st_size


NAME = re.compile(r"[0-9a-f]{8}/[0-9a-f]{32}\.[a-z0-9]{3,4}")
"""Name of a file: the folder of its key, and an unguessable part."""

URL_PATH = "/cdn/files/"
"""Path of the URL of an upload, before its name."""

ETAG = re.compile(r"[0-9a-f]{32}")

# Types that a browser may show from this server. All others are served as downloads.
TYPES: Mapping[str, str] = {
    "png": "image/png", "jpg": "image/jpeg", "webp": "image/webp", "gif": "image/gif",
    "avif": "image/avif", "heic": "image/heic", "heif": "image/heif", "bmp": "image/bmp",
    "tiff": "image/tiff", "mp4": "video/mp4",
}  # fmt: skip
EXTENSIONS = {kind: ending for ending, kind in TYPES.items()} | {"image/jpg": "jpg"}
UNKNOWN_TYPE = "bin"

UPLOAD_TIMEOUT_S = 3600.0
"""Seconds within which an upload must begin, including the last part of a large one."""

STALE_S = 3600.0
"""Seconds after the last write until an unfinished file counts as abandoned."""
STALE_PARTS_S = 86_400.0


def upload_name(url: str) -> str | None:
    """Name of the upload that `url` means, on any host; None for other URLs.

    Runs in linear time. The caller limits the length.
    """
    try:
        split = urlsplit(url)
    except ValueError:
        return None
    if split.scheme not in ("http", "https") or not split.netloc or "?" in url or "#" in url:
        return None
    _, prefix, name = split.path.rpartition(URL_PATH)
    return name if prefix and NAME.fullmatch(name) else None


class UploadStore:
    """Store of uploads in `folder`. `tokens` derives the folder of a key from its id."""

    def __init__(self, folder: Path, limits: UploadLimits, tokens: SignedTokens) -> None:
        self.folder = folder
        self.limits = limits
        self._tokens = tokens

    def new_name(self, owner: str, content_type: str, file_name: str) -> str:
        """Make a name for a file of `owner`, of the form `NAME`."""
        ending = EXTENSIONS.get(content_type.partition(";")[0].strip().lower())
        suffix = PurePosixPath(file_name.lower()).suffix[1:].replace("jpeg", "jpg")
        folder = self._tokens.sign_short(f"owner:{owner}")[:8]
        return f"{folder}/{uuid4().hex}.{ending or (suffix if suffix in TYPES else UNKNOWN_TYPE)}"

    def find(self, name: str) -> Path | None:
        """The path of a file; None if it does not exist or has expired."""
        path = self._path(name)
        try:
            return path if path.stat().st_mtime > time.time() else None
        except OSError:
            return None

    @contextmanager
    def writing(self, name: str, keep_s: float | None = None) -> Iterator[UploadWriter]:
        """Write the file of that name. It is kept if the block ends without error, for `keep_s` at
        most. Raises `ApiError` beyond a limit, `StorageFull` for a full disk."""
        path = self._path(name)
        with self._draft(path, path.parent) as writer:
            yield writer
            writer.close()
            self._keep(writer.draft, path, keep_s)

    @contextmanager
    def writing_part(self, name: str, number: int) -> Iterator[UploadWriter]:
        """Write one part, which is named by its hash until `join`."""
        folder = self._parts(name)
        with self._draft(folder / f"{number}", folder.parent) as writer:
            yield writer
            writer.close()
            for older in folder.glob(f"{number}-*"):
                older.unlink(missing_ok=True)
            writer.draft.replace(folder / f"{number}-{writer.etag}")

    def join(self, name: str, parts: Sequence[tuple[int, str]], keep_s: float | None) -> None:
        """Join the parts (number, etag) in the order of their numbers. Raises `ApiError`."""
        folder, path = self._parts(name), self._path(name)
        paths = [folder / f"{number}-{etag}" for number, etag in sorted(set(parts))]
        if len({number for number, _ in parts}) != len(paths) or not paths:
            raise ApiError(request_error(400, "Each part must be named once.", "bad_request"))
        if not all(ETAG.fullmatch(etag) for _, etag in parts) or not all(map(Path.is_file, paths)):
            raise ApiError(request_error(400, "A part was not uploaded like this.", "bad_request"))
        if sum(part.stat().st_size for part in paths) > self.limits.file:
            raise too_large_error(self.limits)
        draft = path.with_name(f"{path.name}.{uuid4().hex[:8]}.part")
        try:
            with storage_errors(), draft.open("wb") as whole:
                for part in paths:
                    with part.open("rb") as piece:
                        shutil.copyfileobj(piece, whole, 2**20)
            self._keep(draft, path, keep_s)
        finally:
            draft.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove expired and abandoned files. Beyond the limit of bytes, those that expire first
        go too."""
        now, kept = time.time(), []
        for path, modified, size in files_in(self.folder):
            if path.suffix == ".part":
                expired = now - modified > STALE_S
            elif path.parent.suffix == ".parts":
                expired = now - modified > STALE_PARTS_S
            else:
                expired = modified < now
            if expired:
                path.unlink(missing_ok=True)
                with suppress(OSError):
                    path.parent.rmdir()
            else:
                kept.append((modified, path, size))
        room = self.limits.all
        for _, path, size in sorted(kept, reverse=True):
            room -= size
            if room < 0:
                path.unlink(missing_ok=True)

    @contextmanager
    def _draft(self, path: Path, owned: Path) -> Iterator[UploadWriter]:
        """Write a draft, which the block has to rename; it is removed otherwise."""
        with storage_errors():
            writer = UploadWriter(self.limits, path, owned)
            try:
                yield writer
            finally:
                writer.close()
                writer.draft.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise ApiError(request_error(404, "There is no such file.", "not_found"))
        return self.folder / name

    def _parts(self, name: str) -> Path:
        path = self._path(name)
        return path.with_name(f"{path.name}.parts")

    def _keep(self, draft: Path, path: Path, keep_s: float | None) -> None:
        now, limit = time.time(), self.limits.keep_s
        os.utime(draft, (now, now + (limit if keep_s is None else min(keep_s, limit))))
        draft.replace(path)
