"""Standard streams: results on stdout, notes on stderr, where both may be closed, full or narrow.

Invariant: no name of a file, and no state of a stream, raises anything but `OutputFailed` and
`BrokenPipeError`.
"""

import io
import os
import sys
from contextlib import suppress
from typing import TextIO

from svd_core.errors import SvdError


class OutputFailed(SvdError):
    """Error in writing to stdout."""


def prepare_streams() -> None:
    """Open streams that are closed, and write characters that they lack as escapes."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is taken. Otherwise the next file of the program would get it.
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - open until the program ends
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_errors(stream))


def _errors(stream: TextIO) -> str:
    """How characters are written that the encoding lacks.

    Names of Linux files are bytes. In UTF-8 they go out as they are, so that scripts can use them.
    """
    is_utf8 = stream.encoding.lower().replace("-", "") == "utf8"
    return "surrogateescape" if os.name == "posix" and is_utf8 else "backslashreplace"


def write_line(text: str) -> None:
    """Write a line of results on stdout, at once.

    Raises `OutputFailed`, after which the next line may succeed. Raises `BrokenPipeError` if the
    reader has read enough.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        raise _output_failed(error) from error


def finish_output() -> None:
    """Write what is pending on stdout. Raises what `write_line` raises."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        raise _output_failed(error) from error


def _output_failed(error: OSError | ValueError) -> OutputFailed:
    _drop_pending(sys.stdout)
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return OutputFailed("stdout_unwritable", reason=reason)


def print_note(sentence: str) -> None:
    """Print a sentence on stderr. Where that cannot be written, it is lost."""
    with suppress(OSError, ValueError):
        print(sentence, file=sys.stderr, flush=True)


def _drop_pending(stream: TextIO) -> None:
    """Drop what could not be written, or Python would try again at its end, and fail."""
    with suppress(OSError, ValueError):
        number = stream.fileno()
        kept, nothing = os.dup(number), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, number)
        with suppress(OSError, ValueError):
            stream.flush()
        os.dup2(kept, number)
        os.close(kept)
        os.close(nothing)
