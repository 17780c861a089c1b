"""Result store: finished videos on disk by job id, with their frames."""

import errno
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from svd_core.errors import (
    InvalidRecipe,
    InvalidRequest,
    InvalidSettings,
    StorageFull,
    SvdError,
    UnknownJob,
)
from svd_core.media.export import Export, export
from svd_core.media.ffmpeg import PART_SUFFIX
from svd_core.media.recipe import Recipe
from svd_core.media.video import read_comment, read_frames, read_lossless, read_rate, write_lossless
from svd_core.params import FACTORS, Interpolation
from svd_core.types import Frames

VIDEO, FRAMES = ".mp4", ".mkv"
"""Suffixes of a video and of its lossless frames."""

JOB_ID = re.compile(r"[A-Za-z0-9-]{1,64}")

STALE_S = 3600.0
"""Age in seconds at which a file without a job is deleted. The job is written seconds after the
file, so the process must have died in between."""


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
    """Held while a playback file is made: each uses all processors."""

    def __post_init__(self) -> None:
        with _folder_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder) as probe:
                probe.write(b"0")

    def path(self, job_id: str) -> Path:
        """Path of the video of `job_id`, which may not exist. Raises `UnknownJob` for no id."""
        if not JOB_ID.fullmatch(job_id):
            raise UnknownJob("job_id_invalid")
        return self.folder / f"{job_id}{VIDEO}"

    def frames_path(self, job_id: str) -> Path:
        """Path of the lossless frames of `job_id`. Raises `UnknownJob` as `path` does."""
        return self.path(job_id).with_suffix(FRAMES)

    def put_frames(self, job_id: str, frames: Frames) -> None:
        """Keep `frames` if frames are kept and there is room. A video is complete without them."""
        if self.keep_frames:
            with suppress(SvdError):
                write_lossless(frames, self.frames_path(job_id))

    def frames(self, job_id: str) -> Frames:
        """The model's own frames of `job_id`, without in-between frames.

        They come from its video if the lossless ones are gone. Raises `UnknownJob` without either.
        """
        with suppress(InvalidRequest):  # missing or damaged
            return read_lossless(self.frames_path(job_id))
        video = self.path(job_id)
        with suppress(InvalidRequest):
            return read_frames(video)[:: FACTORS[_interpolation(read_comment(video))]]
        raise UnknownJob("video_expired")

    def export(self, job_id: str, wanted: Export, path: Path) -> Path:
        """Write the video of `job_id` to `path` as `wanted`. Its recipe says what interpolation
        the file has. Raises `UnknownJob`, and what `export.export` raises."""
        frames, video = self.frames(job_id), self.path(job_id)
        comment = ""
        with suppress(InvalidRequest):  # only the frames are left
            comment = read_comment(video) or ""
        with suppress(InvalidRecipe):
            recipe = Recipe.from_json(comment)
            if recipe.params.interpolation != wanted.effective_interpolation:
                comment = recipe.with_interpolation(wanted.effective_interpolation).to_json()
        return export(frames, wanted, path, comment)

    def playback(self, job_id: str, interpolation: Interpolation) -> Path:
        """The video of `job_id` as an mp4 with that interpolation, made on first use.

        It is the video itself if that has as many in-between frames as requested or possible. A
        playback file stays until the video is removed. Raises `UnknownJob`, `InvalidRequest`,
        `GenerationFailed`, `StorageFull`.
        """
        video = self.path(job_id)
        try:
            made, rate = _interpolation(read_comment(video)), read_rate(video)
        except InvalidRequest as error:  # missing or damaged
            raise UnknownJob("video_expired") from error
        wanted = Export(fps=rate // FACTORS[made], interpolation=interpolation)
        if wanted.effective_interpolation == made:
            return video
        path = _playback_file(video, wanted.effective_interpolation)
        with self._playback:
            if not path.is_file():
                self.export(job_id, wanted, path)
                if not video.is_file():  # removed meanwhile
                    path.unlink(missing_ok=True)
                    raise UnknownJob("video_expired")
        return path

    def remove(self, ids: Collection[str]) -> None:
        """Remove the videos of these jobs, if there are any."""
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
        """Remove what dead processes left, and videos older than `keep_hours` without a job.

        Returns those files. `known`: returns those ids of a batch that jobs have.
        """
        gone = list(_aged_files(self.folder, PART_SUFFIX, STALE_S))
        keep_s = keep_hours * 3600
        old = [path for end in (VIDEO, FRAMES) for path in _aged_files(self.folder, end, keep_s)]
        ids = list({_job_id_of(path) for path in old})
        strays: set[str] = set()
        for start in range(0, len(ids), 500):
            batch = ids[start : start + 500]
            strays |= set(batch) - set(known(batch))
        gone += [path for path in old if _job_id_of(path) in strays]
        for path in gone:
            path.unlink(missing_ok=True)
        return gone


def bytes_of(video: Path) -> int:
    """Bytes on disk of a stored video, its frames and its playback files."""
    return sum(_size(path) for path in _files_of(video))


def _files_of(video: Path) -> list[Path]:
    """Every file that may belong to a stored video."""
    return [video, video.with_suffix(FRAMES), *(_playback_file(video, each) for each in FACTORS)]


def _playback_file(video: Path, interpolation: Interpolation) -> Path:
    """Where the same video with that interpolation lies: beside it, as `JOB.2x.mp4`."""
    return video.with_suffix(f".{interpolation}{VIDEO}")


def _job_id_of(path: Path) -> str:
    """The id of the job that a file belongs to; ids have no dots."""
    return path.name.partition(".")[0]


def _interpolation(comment: str | None) -> Interpolation:
    """The interpolation of a video with that comment; "off" if it is not a recipe."""
    try:
        return Recipe.from_json(comment or "").params.interpolation
    except InvalidRecipe:
        return "off"


def _aged_files(folder: Path, suffix: str, older_than_s: float) -> Iterator[Path]:
    """The files in `folder` of that `suffix` that have not changed for so long.

    Only they become a `Path`: Python never frees the names of paths, and the folder may have a
    hundred thousand files.
    """
    now = time.time()
    with os.scandir(folder) as entries:
        for entry in entries:
            if os.path.splitext(entry.name)[1] == suffix:
                with suppress(FileNotFoundError):  # renamed or removed meanwhile
                    if now - entry.stat().st_mtime > older_than_s:
                        yield Path(entry)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # removed meanwhile
        return 0


def private_folder(path: Path) -> Path:
    """Make `path` if it is missing, and close it to other users of the machine (mode 700).

    Raises what `ResultStore` raises.
    """
    with _folder_errors(path):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(OSError):  # another user's folder, or a disk without modes
            path.chmod(0o700)
    return path


@contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("folder_disk_full", folder=str(folder)) from error
        reason = error.strerror or str(error)
        raise InvalidSettings("folder_unwritable", folder=str(folder), reason=reason) from error
