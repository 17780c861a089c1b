"""Storage on disk: finished videos by job id, and waiting photos by content hash.

Somewhat long: both kinds are made, aged and swept by the same few functions.
"""

import errno
import hashlib
import math
import os
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from svd_core.errors import (
    GenerationFailed,
    InvalidRecipe,
    InvalidRequest,
    InvalidSettings,
    StorageFull,
    SvdError,
    UnknownJob,
    busy_if_passing,
)
from svd_core.media.export import Export, export
from svd_core.media.ffmpeg import PART_SUFFIX
from svd_core.media.recipe import Recipe
from svd_core.media.video import read_comment, read_frames, read_lossless, read_rate, write_lossless
from svd_core.params import FACTORS, Interpolation
from svd_core.types import Frames

VIDEO, FRAMES = ".mp4", ".mkv"
"""How the names of a video, and of its frames without loss, end."""

JOB_ID = re.compile(r"[A-Za-z0-9-]{1,64}")

STALE_S = 3600.0
"""Age in seconds at which a file without a job is deleted. The job is written seconds after the
file, so the process must have died in between."""

IN_FLIGHT_S = 60.0
"""Age in seconds below which a photo without a job is kept even when space is short, since its job
may be about to be written."""


@dataclass(frozen=True)
class ResultStore:
    """Videos in `folder`, one for each job, with the lossless frames of each beside it.

    The folder is created if it is missing. `keep_frames`: whether lossless frames are kept.
    Playback files, the same videos with other in-between frames, are added on request.

    Raises `InvalidSettings` for a folder that cannot be written, `StorageFull` for a full disk.
    """

    folder: Path
    keep_frames: bool = True
    _playback: threading.Lock = field(
        default_factory=threading.Lock, init=False, repr=False, compare=False
    )
    """One playback file is made at a time, since each takes all processors."""

    def __post_init__(self) -> None:
        _make_folder(self.folder)

    def path(self, job_id: str) -> Path:
        """Where the video of `job_id` is or will be. Raises `UnknownJob` for what can be no id."""
        if not JOB_ID.fullmatch(job_id):
            raise UnknownJob("job_id_invalid")
        return self.folder / f"{job_id}{VIDEO}"

    def frames_path(self, job_id: str) -> Path:
        """Where the frames of `job_id` are or will be. Raises `UnknownJob` as `path` does."""
        return frames_beside(self.path(job_id))

    def put_frames(self, job_id: str, frames: Frames) -> None:
        """Keep `frames`, if frames are kept and there is room: a video is one without them too."""
        if self.keep_frames:
            with suppress(SvdError):
                write_lossless(frames, self.frames_path(job_id))

    def frames(self, job_id: str) -> Frames:
        """The frames of `job_id` as they were made, without in-between frames. If those are gone,
        as its video shows them. Raises `UnknownJob` if that is gone too."""
        with suppress(InvalidRequest):  # it is not there, or damaged
            return read_lossless(self.frames_path(job_id))
        video = self.path(job_id)
        with suppress(InvalidRequest):
            return read_frames(video)[:: FACTORS[_interpolation(_comment(video))]]
        raise _missing_error()

    def export(self, job_id: str, wanted: Export, path: Path) -> Path:
        """Write the video of `job_id` to `path` as `wanted`, with its recipe inside, which says
        what interpolation the file has. Raises `UnknownJob`, and what `export.export` raises."""
        frames, video = self.frames(job_id), self.path(job_id)
        comment = ""
        with suppress(InvalidRequest):  # the frames are there without their video
            comment = _comment(video)
        with suppress(InvalidRecipe):
            recipe = Recipe.from_json(comment)
            if recipe.params.interpolation != wanted.effective_interpolation:
                comment = recipe.with_interpolation(wanted.effective_interpolation).to_json()
        return export(frames, wanted, path, comment)

    def playback(self, job_id: str, interpolation: Interpolation) -> Path:
        """The video of `job_id` as an mp4 with that interpolation, made when first asked for.

        It is the video itself if that has as many in-between frames as asked for, or as its rate
        allows. A playback file stays until the video is removed. Raises `UnknownJob`,
        `InvalidRequest`, `GenerationFailed`, `StorageFull`.
        """
        video = self.path(job_id)
        try:
            made, rate = _interpolation(_comment(video)), read_rate(video)
        except InvalidRequest as error:  # it is not there, or damaged
            raise _missing_error() from error
        wanted = Export(fps=rate // FACTORS[made], interpolation=interpolation)
        if wanted.effective_interpolation == made:
            return video
        path = _playback_file(video, wanted.effective_interpolation)
        with self._playback:
            if not path.is_file():
                self.export(job_id, wanted, path)
                if not video.is_file():  # removed meanwhile
                    path.unlink(missing_ok=True)
                    raise _missing_error()
        return path

    def remove(self, ids: Collection[str]) -> None:
        """Remove the videos of these jobs, as far as there are any."""
        for job_id in ids:
            for path in _files_of(self.path(job_id)):
                path.unlink(missing_ok=True)

    def playback_bytes(self) -> Mapping[str, int]:
        """Bytes of the playback files, by job; jobs without such files are left out."""
        sizes: dict[str, int] = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                job_id, *interpolation = entry.name.removesuffix(VIDEO).split(".")
                if interpolation and entry.name.endswith(VIDEO):
                    sizes[job_id] = sizes.get(job_id, 0) + _size(Path(entry))
        return sizes

    def sweep(
        self, known: Callable[[Collection[str]], Collection[str]], keep_hours: float
    ) -> list[Path]:
        """Remove what dead processes left, and videos older than `keep_hours` that no job knows;
        returns those files. `known`: which of some ids are those of jobs."""
        gone = [path for path, _ in _aged_files(self.folder, PART_SUFFIX, STALE_S)]
        keep_s = keep_hours * 3600
        old = [path for end in (VIDEO, FRAMES) for path, _ in _aged_files(self.folder, end, keep_s)]
        ids = list({_job_id_of(path) for path in old})
        strays: set[str] = set()
        for start in range(0, len(ids), 500):
            batch = ids[start : start + 500]
            strays |= set(batch) - set(known(batch))
        return _remove_files(gone + [path for path in old if _job_id_of(path) in strays])


def frames_beside(video: Path) -> Path:
    """Where the frames of a stored video lie."""
    return video.with_suffix(FRAMES)


def bytes_of(video: Path) -> int:
    """Bytes on disk of a stored video, its frames and its playback files."""
    return sum(_size(path) for path in _files_of(video))


def _files_of(video: Path) -> list[Path]:
    """Every file that may belong to a stored video."""
    return [video, frames_beside(video), *(_playback_file(video, each) for each in FACTORS)]


def _playback_file(video: Path, interpolation: Interpolation) -> Path:
    """Where the same video with that interpolation lies: beside it, as `JOB.2x.mp4`."""
    return video.with_suffix(f".{interpolation}{VIDEO}")


def _job_id_of(path: Path) -> str:
    """The id of the job that a file belongs to; ids have no dots."""
    return path.name.partition(".")[0]


def _comment(video: Path) -> str:
    """The comment of a stored video, which is its recipe; empty if there is none."""
    return read_comment(video) or ""


def _interpolation(comment: str) -> Interpolation:
    """The interpolation of a video with that comment; "off" if it is not a recipe."""
    try:
        return Recipe.from_json(comment).params.interpolation
    except InvalidRecipe:
        return "off"


def _missing_error() -> UnknownJob:
    return UnknownJob("video_expired")


@dataclass(frozen=True)
class PhotoStore:
    """Photos in `folder`, each under the SHA-256 of its bytes, so that none is stored twice.

    Raises what `ResultStore` raises.
    """

    folder: Path

    def __post_init__(self) -> None:
        _make_folder(self.folder)

    def put(self, data: bytes) -> str:
        """Keep `data` and return its name. It is safe on disk then. Raises `StorageFull`."""
        name = hashlib.sha256(data).hexdigest()
        part = self.folder / f"{name}.{uuid.uuid4().hex}{PART_SUFFIX}"
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.folder / name)  # also where it was: it is young again then
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            raise _write_error(error) from error
        return name

    def read(self, name: str) -> bytes:
        """Raises `GenerationFailed` for a photo that is not there any more, `ServerBusy` for a
        fault that passes: only a missing file means that it is gone."""
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError as error:
            raise GenerationFailed("image_gone") from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise busy_if_passing(error) or GenerationFailed(
                "image_not_readable", reason=reason
            ) from error

    def remove(self, names: Collection[str]) -> None:
        """Remove these photos, as far as there are any."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def size(self, name: str) -> int:
        """Bytes of a photo; 0 if it is not there any more."""
        try:
            return (self.folder / name).stat().st_size
        except OSError:
            return 0

    def sweep(self, needed: Collection[str], most_bytes: float = math.inf) -> list[Path]:
        """Remove photos that are not `needed` any more; returns their files. Young ones stay, their
        job may be on its way into the table, unless all together are more than `most_bytes`."""
        photos = list(_aged_files(self.folder, ""))
        spare = sorted((age, path) for path, age in photos if path.name not in needed)
        room = most_bytes - sum(_size(path) for path, _ in photos if path.name in needed)
        gone = [path for path, _ in _aged_files(self.folder, PART_SUFFIX, STALE_S)]
        for age, path in spare:
            room -= _size(path)
            if age > STALE_S or (room < 0 and age > IN_FLIGHT_S):
                gone.append(path)
        return _remove_files(gone)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"0")
    except OSError as error:
        raise _folder_error(folder, error) from error


def _aged_files(
    folder: Path, suffix: str, older_than_s: float = -math.inf
) -> Iterator[tuple[Path, float]]:
    """(path, seconds since its last change) of the files in `folder` of that `suffix` and age.

    A `Path` keeps its name in a table of Python that never shrinks, so only files that are
    returned get one: the folder may have a hundred thousand.
    """
    now = time.time()
    with os.scandir(folder) as entries:
        for entry in entries:
            if os.path.splitext(entry.name)[1] == suffix:
                with suppress(FileNotFoundError):  # renamed or removed since it was listed
                    age_s = now - entry.stat().st_mtime
                    if age_s > older_than_s:
                        yield Path(entry), age_s


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # removed since it was listed
        return 0


def _remove_files(paths: list[Path]) -> list[Path]:
    for path in paths:
        path.unlink(missing_ok=True)
    return paths


def _write_error(error: OSError) -> SvdError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull("image_disk_full")
    reason = error.strerror or str(error)
    return busy_if_passing(error) or GenerationFailed("image_not_stored", reason=reason)


def private_folder(path: Path) -> Path:
    """Make `path`, if it is missing, and close it to other users of the machine (mode 700).
    Raises what `ResultStore` raises."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(OSError):  # another user's folder, or a disk without modes
            path.chmod(0o700)
    except OSError as error:
        raise _folder_error(path, error) from error
    return path


def _folder_error(folder: Path, error: OSError) -> InvalidSettings | StorageFull:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull("folder_disk_full", folder=str(folder))
    return InvalidSettings("folder_unwritable", folder=str(folder), reason=reason)
