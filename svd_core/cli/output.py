"""Output of the command line: videos to their folder, results to stdout, the rest to stderr.

Videos appear whole, and never over another file by accident. The progress bar is one line with
stage and time left; without a terminal there is none.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from svd_core.cli.args import InvalidCommand
from svd_core.events import OnProgress, Progress, Stage, Video
from svd_core.storage import ResultStore


@dataclass(frozen=True)
class OutputFolder:
    """Folder for videos, and the `name` of a single one; None: each is named after its photo."""

    folder: Path
    name: str | None

    @classmethod
    def from_option(cls, output: str, num_photos: int) -> "OutputFolder":
        """Read `-o`, and make the folder. Raises `InvalidCommand`.

        It is a folder if one exists there, if it ends like one, or if there are several photos.
        """
        path = Path(output)
        is_file = path.suffix.lower() == ".mp4" and not path.is_dir()
        if path.is_dir() or output.endswith(("/", os.sep)) or (num_photos > 1 and not is_file):
            folder = cls(path, None)
        elif num_photos > 1:
            raise InvalidCommand(f"Several photos need a folder: write -o {path.with_suffix('')}/.")
        elif not is_file:
            raise InvalidCommand(f"The video is an mp4: write -o {path.with_suffix('.mp4')}.")
        else:
            folder = cls(path.parent, path.name)
        try:
            folder.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(folder.folder, error) from error
        return folder

    @contextmanager
    def staging_dir(self) -> Iterator[ResultStore]:
        """Temporary hidden folder on the same disk for unfinished videos."""
        try:
            folder = tempfile.TemporaryDirectory(prefix=".svd-", dir=self.folder)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        with folder as path:
            yield ResultStore(Path(path), keep_frames=False)

    def publish(self, made: Path, photo: Path) -> Path:
        """Move the finished file `made` to its place atomically, and return its new path.

        A name from `-o` replaces an existing file. A name taken from `photo` gets a number instead:
        photo.mp4, photo-2.mp4, ...
        """
        path = self._reserve(photo.stem) if self.name is None else self.folder / self.name
        return made.replace(path)

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
    reason = error.strerror or str(error)
    return InvalidCommand(f"{folder} cannot be written ({reason}); choose another place with -o.")


def print_result(photo: Path, video: Video, as_json: bool) -> None:
    """Print a line about a finished video on stdout, and its notes on stderr."""
    if as_json:
        line = {"photo": str(photo)} | asdict(video) | {"path": str(video.path)}
        print(json.dumps(line), flush=True)
        return
    print(
        f"{video.path}: {video.num_frames} frames of {video.width}x{video.height} at "
        f"{video.fps} fps, seed {video.seed}, {video.model}, {video.elapsed_s:.1f} s",
        flush=True,
    )
    for note in video.notes:
        print_note(note)


def print_note(sentence: str) -> None:
    """Print a sentence on stderr."""
    print(sentence, file=sys.stderr, flush=True)


class RemainingTimeColumn(ProgressColumn):
    """Countdown between two reports, which may be minutes apart on a slow machine."""

    def render(self, task: Task) -> Text:
        ends_at = task.fields["ends_at"]
        if ends_at is None:
            return Text("")
        left = max(0, round(ends_at - time.monotonic()))
        return Text(f"{left // 60}:{left % 60:02d} left", style="progress.remaining")


@contextmanager
def progress_bar(title: str, console: Console | None = None) -> Iterator[OnProgress]:
    """Progress bar on stderr while the block runs; it takes reports of progress."""
    console = Console(stderr=True) if console is None else console
    # stdout is not redirected: results go there, perhaps into another program.
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
