"""Runs of ffmpeg (from imageio-ffmpeg), and atomic writes of files."""

import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import CompletedProcess

import imageio_ffmpeg

from svd_core.errors import GenerationFailed, ServerBusy, StorageFull, SvdError, busy_if_passing

if sys.platform == "linux":
    import resource

PART_SUFFIX = ".part"
"""Suffix of an unfinished file."""

READ_TIMEOUT_S = 120.0

DISK_FULL_MESSAGES = ("No space left on device", "Disk quota exceeded", "File too large")
TRANSIENT_MESSAGES = (
    "Cannot allocate memory", "Input/output error", "Resource temporarily unavailable",
    "Too many open files",
)  # fmt: skip
"""System messages about temporary faults."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Temporary path beside `path`, renamed to it when the block ends without an error.

    On failure no file is left. Raises `StorageFull`, `ServerBusy`, `GenerationFailed`.
    """
    part = path.with_name(f"{path.stem}.{uuid.uuid4().hex}{PART_SUFFIX}").absolute()
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise _write_error(1, str(error)) from error
    finally:
        with suppress(OSError):  # it or its folder is missing; the first error says more
            part.unlink()


def encode(*arguments: str, data: bytes | memoryview = b"") -> bytes:
    """Run ffmpeg to write a file or a stream, and return its output.

    Raises what `atomic_write` raises.
    """
    done = ffmpeg(*arguments, data=data)
    if done.returncode != 0:
        raise _write_error(done.returncode, done.stderr.decode("utf-8", "replace"))
    return done.stdout


def ffmpeg(
    *arguments: str, data: bytes | memoryview = b"", memory: int | None = None
) -> "CompletedProcess[bytes]":
    """Run ffmpeg with `data` as its input.

    `memory`: limit in bytes of the address space (on Linux), for untrusted files; then the time is
    also limited, to `READ_TIMEOUT_S` seconds. Raises `GenerationFailed` if it cannot be started,
    `ServerBusy` if the machine lacks resources for the moment.
    """
    try:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *arguments]
        if memory is None:
            return subprocess.run(command, input=data, capture_output=True, check=False)  # noqa: S603
        return _run_limited(command, bytes(data), memory)
    except (OSError, RuntimeError) as error:
        if (busy := busy_if_passing(error)) is not None:
            raise busy from error
        raise GenerationFailed("ffmpeg_missing", reason=str(error)) from error


def _run_limited(command: list[str], data: bytes, memory: int) -> "CompletedProcess[bytes]":
    """Run `command` with limits on memory and time.

    The memory limit is set from outside, since code between fork and exec is unsafe with threads.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:  # noqa: S603
        if sys.platform == "linux":
            with suppress(ProcessLookupError):  # it has ended already
                resource.prlimit(process.pid, resource.RLIMIT_AS, (memory, memory))
        try:
            out, messages = process.communicate(data, READ_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            out, messages = process.communicate()
        except BaseException:  # Ctrl-C too, or ffmpeg would keep running
            process.kill()
            raise
        return CompletedProcess(command, process.returncode, out, messages)


def _write_error(code: int, message: str) -> SvdError:
    """The error for a failed write.

    `code`: exit status, or minus the number of the signal that ended the process.
    """
    too_large = getattr(signal, "SIGXFSZ", None)  # the limit of a user's file size; not on Windows
    if any(words in message for words in DISK_FULL_MESSAGES) or (
        too_large is not None and code == -too_large
    ):
        full = StorageFull("video_disk_full")
        full.passing = "No space left" in message or "quota" in message  # a size limit stays
        return full
    if any(words in message for words in TRANSIENT_MESSAGES):
        return ServerBusy("server_busy")
    reason = (message.strip() or f"exit status {code}").splitlines()[-1][:200]
    return GenerationFailed("video_not_written", reason=reason)
