"""Output of the command line: videos to their folder, results to stdout, the rest to stderr.

Videos appear complete, and never replace another file by accident. The progress bar is one line
with stage and time left, on terminals only.
"""

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from svd_core.cli.args import InvalidCommand
from svd_core.cli.photos import Photo
from svd_core.cli.streams import print_note, reason_of, write_line
from svd_core.errors import StorageFull
from svd_core.events import OnProgress, Progress, Stage, Video
from svd_core.storage import ResultStore

STEM_LENGTH = 60
"""Characters of a name that every file system accepts, with a number and a suffix added."""


class OutputFull(StorageFull):
    """The disk of the output is full. An option helps here, not a setting of the server."""


@dataclass(frozen=True)
class OutputFolder:
    """Folder for videos. `name`: of a single one; None: each is named after its photo."""

    folder: Path
    name: str | None

    @classmethod
    def from_option(cls, output: str, num_photos: int) -> "OutputFolder":
        """Parse `-o` and create the folder. Raises `InvalidCommand`.

        `output` is a folder if one exists there, if it ends with a slash, or for several photos.
        """
        if output == "-":
            raise InvalidCommand("stdout_not_seekable")
        path = Path(output if os.path.lexists(output) else os.path.expanduser(output))
        is_folder = os.path.isdir(path)
        is_file = path.suffix.lower() == ".mp4" and not is_folder
        if is_folder or output.endswith(("/", os.sep)) or (num_photos > 1 and not is_file):
            folder = cls(path, None)
        elif num_photos > 1:
            raise InvalidCommand("output_not_a_folder", folder=f"{path.with_suffix('')}{os.sep}")
        elif not is_file:
            raise InvalidCommand("output_not_an_mp4", file=str(path.with_suffix(".mp4")))
        else:
            folder = cls(path.parent, path.name)
        try:
            folder.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(folder.folder, error) from error
        return folder

    def check_inputs(self, paths: Iterable[str | Path]) -> None:
        """Raise `InvalidCommand` if the video would replace one of the files it is made from."""
        for path in paths if self.name is not None else ():
            with suppress(OSError, ValueError):
                if os.path.samefile(self.folder / str(self.name), path):
                    raise InvalidCommand("output_is_input", path=str(path))

    @contextmanager
    def temp_dir(self) -> Iterator[None]:
        """Temporary folder for libraries such as torch, if the system has none."""
        with ExitStack() as stack:
            try:
                tempfile.gettempdir()
            except FileNotFoundError:
                folder = self._make_temp_dir()
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                tempfile.tempdir = os.environ["TMPDIR"] = str(folder.absolute())
            yield

    @contextmanager
    def staging_dir(self) -> Iterator[ResultStore]:
        """Hidden temporary folder on the same disk for unfinished videos.

        It is kept if the block succeeds and leaves a video there.
        """
        folder = self._make_temp_dir()
        is_kept = False
        try:
            yield ResultStore(folder, keep_frames=False)
            is_kept = any(folder.glob("*.mp4"))
        finally:
            if not is_kept:
                shutil.rmtree(folder, ignore_errors=True)

    def _make_temp_dir(self) -> Path:
        try:
            return Path(tempfile.mkdtemp(prefix=".svd-", dir=self.folder))
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def publish(self, made: Path, stem: str) -> Path:
        """Move the finished file `made` to its place atomically, and return its new path.

        A name from `-o` replaces an existing file. A name taken from a photo, `stem`, gets a number
        instead: photo.mp4, photo-2.mp4, ... A video is never lost. If its name is impossible, it
        gets a simpler one. If the folder is not writable, it stays at `made`, with a note.
        """
        if self.name is not None:
            try:
                return made.replace(self.folder / self.name)
            except OSError as error:
                stem = Path(self.name).stem
                print_note(f"{self.folder / self.name} cannot be written ({reason_of(error)}).")
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", stem)[:STEM_LENGTH].strip("_")
        reason = ""
        for candidate in dict.fromkeys((stem, stem[:STEM_LENGTH], plain or "video", "video")):
            try:
                return self._move(made, candidate)
            except (OSError, ValueError) as error:  # a name that this file system cannot store
                reason = reason_of(error)
        print_note(f"The video cannot be moved to {self.folder} ({reason}). It is kept here:")
        return made

    def _move(self, made: Path, stem: str) -> Path:
        path = self._reserve(stem)
        try:
            return made.replace(path)
        except OSError:
            with suppress(OSError):
                path.unlink()
            raise

    def _reserve(self, stem: str) -> Path:
        number = 1
        while True:
            path = self.folder / (f"{stem}.mp4" if number == 1 else f"{stem}-{number}.mp4")
            try:
                path.touch(exist_ok=False)  # two programs at once get two names
            except FileExistsError:
                number += 1
            else:
                return path


def _unwritable(folder: Path, error: OSError) -> InvalidCommand:
    return InvalidCommand("output_unwritable", folder=str(folder), reason=reason_of(error))


def print_result(photo: Photo, video: Video, as_json: bool) -> None:
    """Print a line about a finished video on stdout, and its notes on stderr.

    Raises what `write_line` raises.
    """
    if as_json:
        line = {"photo": photo.name} | asdict(video) | {"path": str(video.path)}
        write_line(json.dumps(line))
        return
    try:
        write_line(
            f"{video.path}: {video.num_frames} frames of {video.width}x{video.height} at "
            f"{video.fps} fps, seed {video.seed}, {video.model}, {video.elapsed_s:.1f} s"
        )
    finally:
        for note in video.notes:
            print_note(note)


class RemainingTimeColumn(ProgressColumn):
    """Countdown that goes on between two reports, which may be minutes apart."""

    def render(self, task: Task) -> Text:
        ends_at = task.fields["ends_at"]
        if ends_at is None:
            return Text("")
        left = max(0, round(ends_at - time.monotonic()))
        return Text(f"{left // 60}:{left % 60:02d} left", style="progress.remaining")


@contextmanager
def progress_bar(title: str, console: Console | None = None) -> Iterator[OnProgress]:
    """Progress bar on stderr while the block runs. Yields the function that updates it."""
    console = Console(stderr=True) if console is None else console
    # Results go to stdout, perhaps into another program, so rich must not redirect it.
    with Bar(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[stage]}", markup=False),
        RemainingTimeColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(title, total=None, stage="starting", ends_at=None)

        def show(progress: Progress) -> None:
            left = progress.remaining_s
            ends_at = None if left is None else time.monotonic() + left
            share = progress.share
            bar.update(task, stage=progress_text(progress), ends_at=ends_at, completed=share or 0.0)
            # Set on the task, because `update` reads a total of None as "unchanged".
            bar.tasks[0].total = None if share is None else 1.0

        yield show


def progress_text(progress: Progress) -> str:
    """Text beside the bar, e.g. `denoising 3/12` or `loading 1.2/4.2 GB`."""
    if progress.note is not None:
        return progress.note
    if not progress.total or progress.stage is Stage.QUEUED:
        return progress.stage
    if progress.stage is Stage.LOADING:
        unit, size = ("GB", 1e9) if progress.total >= 1e9 else ("MB", 1e6)
        return f"{progress.stage} {progress.step / size:.1f}/{progress.total / size:.1f} {unit}"
    return f"{progress.stage} {progress.step}/{progress.total}"
