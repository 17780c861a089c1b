"""Upload store: complete files on disk, limited for each key, deleted when they expire.

The folder is the only record. Each key has a folder of its own, and a file's time of change is set
to the moment when it is to go.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from uuid import uuid4

from svd_core.web.fal.responses import ApiError, request_error
from svd_core.web.fal.signed_tokens import SignedTokens
from svd_core.web.fal.upload_writer import (
    UploadLimits,
    UploadWriter,
    files_in,
    storage_errors,
    too_large_error,
)

NAME = re.compile(r"[0-9a-f]{8}/[0-9a-f]{32}\.[a-z0-9]{3,4}")
"""Of a file: its key's folder, and what is not to be guessed."""

ETAG = re.compile(r"[0-9a-f]{32}")

# What a browser may show from our address is listed; everything else is handed out as a download.
TYPES: Mapping[str, str] = {
    "png": "image/png", "jpg": "image/jpeg", "webp": "image/webp", "gif": "image/gif",
    "avif": "image/avif", "heic": "image/heic", "heif": "image/heif", "bmp": "image/bmp",
    "tiff": "image/tiff", "mp4": "video/mp4",
}  # fmt: skip
EXTENSIONS = {kind: ending for ending, kind in TYPES.items()} | {"image/jpg": "jpg"}
UNKNOWN = "bin"

UPLOAD_TIMEOUT_S = 3600.0
"""Seconds within which an upload has to be begun; the last part of a big one too."""

STALE_S = 3600.0
"""An unfinished file untouched for so long is of a client that went away."""
STALE_PARTS_S = 86_400.0


class UploadStore:
    """Files in `folder`. `tokens` turns a key's id into the name of its folder."""

    def __init__(self, folder: Path, limits: UploadLimits, tokens: SignedTokens) -> None:
        self.folder = folder
        self.limits = limits
        self._tokens = tokens

    def new_name(self, owner: str, content_type: str, file_name: str) -> str:
        """A name for a file of `owner`, of the form `NAME`."""
        ending = EXTENSIONS.get(content_type.partition(";")[0].strip().lower())
        told = PurePosixPath(file_name.lower()).suffix[1:].replace("jpeg", "jpg")
        folder = self._tokens.sign_short(f"owner:{owner}")[:8]
        return f"{folder}/{uuid4().hex}.{ending or (told if told in TYPES else UNKNOWN)}"

    def find(self, name: str) -> Path | None:
        """The file of that name, if it is there and its time is not over."""
        path = self._path(name)
        try:
            return path if path.stat().st_mtime > time.time() else None
        except OSError:
            return None

    @contextmanager
    def writing(self, name: str, keep_s: float | None = None) -> Iterator[UploadWriter]:
        """Whoever writes a file of that name. If the block ends well it is kept, for `keep_s` at
        most. Raises `ApiError` for too much, `StorageFull` for a full disk."""
        path = self._path(name)
        incoming = UploadWriter(self.limits, path, path.parent)
        try:
            with storage_errors():
                incoming.open()
                yield incoming
                incoming.close()
                self._keep(incoming.draft, path, keep_s)
        finally:
            incoming.close()
            incoming.draft.unlink(missing_ok=True)

    @contextmanager
    def writing_part(self, name: str, number: int) -> Iterator[UploadWriter]:
        """Whoever writes a part, which waits under its own hash until `join`."""
        folder = self._parts(name)
        incoming = UploadWriter(self.limits, folder / f"{number}", folder.parent)
        try:
            with storage_errors():
                incoming.open()
                yield incoming
                incoming.close()
                for older in folder.glob(f"{number}-*"):
                    older.unlink(missing_ok=True)
                incoming.draft.replace(folder / f"{number}-{incoming.etag}")
        finally:
            incoming.close()
            incoming.draft.unlink(missing_ok=True)

    def join(self, name: str, parts: Sequence[tuple[int, str]], keep_s: float | None) -> None:
        """Make the file out of (number, etag) in the order of numbers. Raises `ApiError`."""
        folder, path = self._parts(name), self._path(name)
        found = [folder / f"{number}-{etag}" for number, etag in sorted(set(parts))]
        if len({number for number, _ in parts}) != len(found) or not found:
            raise ApiError(request_error(400, "Each part must be named once.", "bad_request"))
        if not all(ETAG.fullmatch(etag) for _, etag in parts) or not all(map(Path.is_file, found)):
            raise ApiError(request_error(400, "A part was not uploaded like this.", "bad_request"))
        if sum(part.stat().st_size for part in found) > self.limits.file:
            raise too_large_error(self.limits)
        draft = path.with_name(f"{path.name}.{uuid4().hex[:8]}.part")
        try:
            with storage_errors(), draft.open("wb") as whole:
                for part in found:
                    with part.open("rb") as piece:
                        shutil.copyfileobj(piece, whole, 2**20)
            self._keep(draft, path, keep_s)
        finally:
            draft.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove files whose time is over, unfinished ones that nobody goes on with, and the ones
        that go soonest where all together are too many bytes."""
        now, kept = time.time(), []
        for path, changed, size in files_in(self.folder):
            if path.suffix == ".part":
                old = now - changed > STALE_S
            elif path.parent.suffix == ".parts":
                old = now - changed > STALE_PARTS_S
            else:
                old = changed < now
            if old:
                path.unlink(missing_ok=True)
                with suppress(OSError):
                    path.parent.rmdir()
            else:
                kept.append((changed, path, size))
        room = self.limits.all
        for _, path, size in sorted(kept, reverse=True):
            room -= size
            if room < 0:
                path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise ApiError(request_error(404, "There is no such file.", "not_found"))
        return self.folder / name

    def _parts(self, name: str) -> Path:
        path = self._path(name)
        return path.with_name(f"{path.name}.parts")

    def _keep(self, draft: Path, path: Path, keep_s: float | None) -> None:
        now, most = time.time(), self.limits.keep_s
        os.utime(draft, (now, now + (most if keep_s is None else min(keep_s, most))))
        draft.replace(path)
