"""Standard streams: results on stdout, notes on stderr. Both may be closed, full or ASCII-only.

Invariant: no file name and no state of a stream raises anything but `OutputFailed` and
`BrokenPipeError`.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from svd_core.errors import SvdError


class OutputFailed(SvdError):
    """Error in writing to stdout."""


def prepare_streams() -> None:
    """Open streams that are closed, and escape characters that their encoding lacks."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # This takes the lowest free number, which the program's next file would get otherwise.
            os.open(os.devnull, os.O_RDWR)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # File names on Linux are bytes. In UTF-8 they are printed unchanged, for scripts.
            is_utf8 = stream.encoding.lower().replace("-", "") == "utf8"
            is_exact = os.name == "posix" and is_utf8
            stream.reconfigure(errors="surrogateescape" if is_exact else "backslashreplace")


def write_line(text: str) -> None:
    """Write a line of results on stdout, at once.

    Raises `OutputFailed`, after which the next line may succeed. Raises `BrokenPipeError` if the
    reader has read enough.
    """
    with _stdout_errors():
        print(text, flush=True)


def finish_output() -> None:
    """Flush stdout. Raises what `write_line` raises."""
    with _stdout_errors():
        sys.stdout.flush()


@contextmanager
def _stdout_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        _drop_pending(sys.stdout)
        raise OutputFailed("stdout_unwritable", reason=reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """The operating system's words for an error, without file name and number."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def print_note(sentence: str) -> None:
    """Print a sentence on stderr. If that fails, the sentence is lost."""
    with suppress(OSError, ValueError):
        print(sentence, file=sys.stderr, flush=True)


def _drop_pending(stream: TextIO) -> None:
    """Drop text that could not be written, or Python would fail on it again at exit."""
    with suppress(OSError, ValueError):
        number = stream.fileno()
        kept, nothing = os.dup(number), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, number)
        with suppress(OSError, ValueError):
            stream.flush()
        os.dup2(kept, number)
        os.close(kept)
        os.close(nothing)
