"""Photos that the command line names: files, patterns that the shell has left, and stdin.

Invariant: naming a photo that is not there raises nothing; reading it does, so that the others are
still made.
"""

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from svd_core.cli.args import InvalidCommand
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
        """The bytes of the file, of which no more are read than a photo may have.

        Raises `UnreadablePhoto`.
        """
        if self.name == STDIN:
            return _read_stdin()
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
            raise UnreadablePhoto("photo_unreadable", reason=_reason(error)) from error


def find_photos(arguments: Sequence[str]) -> list[Photo]:
    """The photos of the command line, in their order. A pattern becomes its files by name.

    Raises `InvalidCommand` if stdin is named twice.
    """
    if arguments.count(STDIN) > 1:
        raise InvalidCommand("stdin_named_twice", name=STDIN)
    return [photo for argument in arguments for photo in _find(argument)]


def _find(argument: str) -> Iterator[Photo]:
    if argument == STDIN:
        yield Photo(STDIN, "")
        return
    # A name that exists is no pattern. The shell of Windows leaves patterns to programs, and every
    # shell leaves those that match nothing.
    path = argument if os.path.lexists(argument) else os.path.expanduser(argument)
    found = []
    if glob.has_magic(path) and not os.path.lexists(path):
        found = [file for file in sorted(glob.glob(path, recursive=True)) if os.path.isfile(file)]
    if found:
        yield from (Photo(file, file) for file in found)
    else:
        yield Photo(argument, path)


def _read_stdin() -> bytes:
    if sys.stdin is None or sys.stdin.closed:
        raise UnreadablePhoto("stdin_empty")
    try:
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    except OSError as error:
        raise UnreadablePhoto("stdin_unreadable", reason=_reason(error)) from error


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
