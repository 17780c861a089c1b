"""Output files of the command line: written atomically, never over another file by accident."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from svd_core.cli.args import InvalidCommand
from svd_core.storage import ResultStore


@dataclass(frozen=True)
class OutputFolder:
    """A `folder`, and the one `name` to write there; None: each video is named after its photo."""

    folder: Path
    name: str | None

    @classmethod
    def from_option(cls, output: str, num_photos: int) -> "OutputFolder":
        """Read `-o`: a folder if it is one, ends like one, or has to take several videos.

        The folder is made. Raises `InvalidCommand`.
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
        """A hidden folder on the same disk for unfinished videos, gone afterwards."""
        try:
            folder = tempfile.TemporaryDirectory(prefix=".svd-", dir=self.folder)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        with folder as path:
            yield ResultStore(Path(path), keep_frames=False)

    def publish(self, made: Path, photo: Path) -> Path:
        """Move `made` to its place, in one go, and return it. A requested name replaces an
        existing file. A name taken from `photo` is made unique: photo.mp4, photo-2.mp4, ..."""
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
