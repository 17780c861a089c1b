"""The ffmpeg of imageio-ffmpeg, and files that appear whole or not at all."""

import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import CompletedProcess

import imageio_ffmpeg

from svd_core.errors import GenerationFailed, StorageFull, SvdError

PART = ".part"
"""How the name of an unfinished file ends."""

FULL = ("No space left on device", "Disk quota exceeded", "File too large")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to. The file takes its own name when the block ends well; on
    any failure nothing of it is left. Raises `StorageFull`, `GenerationFailed`."""
    part = path.with_name(f"{path.stem}.{uuid.uuid4().hex}{PART}").absolute()
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise _write_error(1, str(error)) from error
    finally:
        with suppress(OSError):  # it is gone, or its folder is; the error under way says more
            part.unlink()


def encode(*arguments: str, data: bytes | memoryview = b"") -> bytes:
    """Run ffmpeg to write something, and return what it printed. Raises as `whole` does."""
    done = ffmpeg(*arguments, data=data)
    if done.returncode != 0:
        raise _write_error(done.returncode, done.stderr.decode("utf-8", "replace"))
    return done.stdout


def ffmpeg(*arguments: str, data: bytes | memoryview = b"") -> "CompletedProcess[bytes]":
    """Run ffmpeg with `data` as its input. Raises `GenerationFailed` if it cannot be started."""
    try:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *arguments]
        return subprocess.run(command, input=data, capture_output=True, check=False)  # noqa: S603
    except (OSError, RuntimeError) as error:
        raise GenerationFailed(
            f"ffmpeg, which writes and reads videos, cannot be started ({error}); "
            "install the package imageio-ffmpeg again."
        ) from error


def _write_error(code: int, said: str) -> SvdError:
    """`code`: exit status, minus the number of the signal that ended it. `said`: its complaints."""
    too_large = getattr(signal, "SIGXFSZ", None)  # the limit of a user's file size; not on Windows
    if any(words in said for words in FULL) or (too_large is not None and code == -too_large):
        return StorageFull(
            "There is no room left on the disk for the video; free some, or set SVD_DATA_DIR to a "
            "folder on another disk, and try again."
        )
    reason = (said.strip() or f"exit status {code}").splitlines()[-1][:200]
    return GenerationFailed(f"The video could not be written ({reason}); try again.")
