"""Photos named on the command line: files, patterns that the shell has not expanded, and stdin.

Invariant: a missing photo raises an error only when it is read, so the others are still used.
"""

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from svd_core.cli.args import InvalidCommand
from svd_core.cli.streams import reason_of
from svd_core.errors import InvalidImage
from svd_core.media.image import MAX_BYTES

STDIN = "-"
SLASHES = "/" if os.sep == "/" else "/\\"


class UnreadablePhoto(InvalidImage):
    """A photo that the command line cannot read. The sentence follows its name."""


@dataclass(frozen=True)
class Photo:
    """Photo by its name on the command line. `path`: its file; empty for stdin."""

    name: str
    path: str

    @property
    def title(self) -> str:
        """Name without folders."""
        return os.path.basename(self.path) or "stdin"

    @property
    def stem(self) -> str:
        """Name of the video without its suffix."""
        return os.path.splitext(self.title)[0]

    def read(self) -> bytes:
        """The bytes of the file, at most one more than allowed. Raises `UnreadablePhoto`."""
        if self.name == STDIN:
            if sys.stdin is None or sys.stdin.closed:
                raise UnreadablePhoto("stdin_empty")
            try:
                return sys.stdin.buffer.read(MAX_BYTES + 1)
            except OSError as error:
                raise UnreadablePhoto("stdin_unreadable", reason=reason_of(error)) from error
        if not self.path:
            raise UnreadablePhoto("photo_name_empty")
        if os.path.isdir(self.path):
            raise UnreadablePhoto("photo_is_folder", name=self.name.rstrip(SLASHES))
        try:
            with open(self.path, "rb") as file:
                return file.read(MAX_BYTES + 1)
        except FileNotFoundError as error:
            raise UnreadablePhoto("photo_missing") from error
        except (OSError, ValueError) as error:
            raise UnreadablePhoto("photo_unreadable", reason=reason_of(error)) from error


def find_photos(arguments: Sequence[str]) -> list[Photo]:
    """The photos of the command line, in their order. A pattern becomes its files, by name.

    Raises `InvalidCommand` if stdin is named twice.
    """
    if arguments.count(STDIN) > 1:
        raise InvalidCommand("stdin_named_twice", name=STDIN)
    return [photo for argument in arguments for photo in _find(argument)]


def _find(argument: str) -> Iterator[Photo]:
    if argument == STDIN:
        yield Photo(STDIN, "")
        return
    # The name of an existing file is not a pattern. On Windows, shells leave patterns to programs;
    # elsewhere they leave only those that match nothing.
    path = argument if os.path.lexists(argument) else os.path.expanduser(argument)
    files: list[str] = []
    if glob.has_magic(path) and not os.path.lexists(path):
        files = [file for file in sorted(glob.glob(path, recursive=True)) if os.path.isfile(file)]
    if files:
        yield from (Photo(file, file) for file in files)
    else:
        yield Photo(argument, path)
