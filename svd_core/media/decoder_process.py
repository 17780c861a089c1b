"""Decoder process: sandbox with resource limits that decodes untrusted pictures one at a time.

Invariant: all decoding together takes at most `MEMORY_LIMIT_BYTES` bytes, and one picture at most
`CPU_LIMIT_S` seconds of processor time. The process reads requests from its input, responds on its
output, writes no file, and ends with its parent. Windows has only the wall clock limit, and macOS
ignores the memory limit.

Request: bytes of the file and most pixels (0: no limit), 8 bytes each, then the file. Response: one
line of JSON, then the rows of the picture as RGB.
"""

import atexit
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from PIL import Image

from svd_core import messages
from svd_core.errors import InvalidImage, ServerBusy, busy_if_passing
from svd_core.media.deep_images import bands
from svd_core.media.image_decoding import DecodedImage, decode

MEMORY_LIMIT_BYTES = 2**30
"""Bytes of address space. The largest allowed pictures take 850 MB."""

CPU_LIMIT_S = 20.0
"""Seconds of processor time for one picture. 40 megapixels of any format take at most 5,
and HDR 10."""

WALL_LIMIT_S = 90.0
"""Seconds of wall clock for one picture, on a busy machine."""

MAX_WAITING = 24
"""Pictures that may wait for the decoder; each holds its file in memory."""

WAIT_TIMEOUT_S = 60.0

EXIT_TIMEOUT_S = 5.0
"""Seconds that a process has to end after its pipes are closed."""

RESTART_BYTES = 256 * 2**20
"""Bytes of memory beyond which the process ends after its response, to release them."""

COMMAND = (sys.executable, "-P", "-m", "svd_core.media.decoder_process")

HEADER = struct.Struct(">QQ")
BLOCK = 2**26
"""Bytes that Pillow allocates at a time for a picture. Freed blocks go back to the system only if
they are larger than 32 MB (glibc)."""

LINE = 2**12
SECRET = ("SVD_", "HF_TOKEN", "AWS_", "GRADIO_")
"""Prefixes of environment variables that the process must not see."""


class Decoder:
    """Client of the decoder process, which is started on first use. Thread-safe."""

    def __init__(
        self,
        command: Sequence[str] = COMMAND,
        wall_s: float = WALL_LIMIT_S,
        waiting: int = MAX_WAITING,
    ) -> None:
        self._command = command
        self._wall_s = wall_s
        self._most_waiting = waiting
        self._process: subprocess.Popen[bytes] | None = None
        self._discard_process()

    def decode(
        self, data: bytes, most_pixels: int | None = None, *, patient: bool = False
    ) -> DecodedImage:
        """Decode a picture as `image_decoding.decode` does.

        Raises `InvalidImage`. Raises `ServerBusy` if the process cannot be started, or if too many
        pictures are waiting; a `patient` caller waits for its turn.
        """
        if patient:
            with self._turn:
                return self._request(data, most_pixels or 0)
        if not self._waiting.acquire(blocking=False):
            raise ServerBusy("decoder_busy")
        try:
            if not self._turn.acquire(timeout=WAIT_TIMEOUT_S):
                raise ServerBusy("decoder_busy")
            try:
                return self._request(data, most_pixels or 0)
            finally:
                self._turn.release()
        finally:
            self._waiting.release()

    def close(self) -> None:
        """Stop the process. The next picture starts another one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            _close(process)

    def _discard_process(self) -> None:
        """Forget the process, also after a fork: pipes must not be shared."""
        self._process = None
        self._turn = threading.Lock()
        self._waiting = threading.Semaphore(self._most_waiting)

    def _request(self, data: bytes, most_pixels: int) -> DecodedImage:
        process = self._ensure_started()
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self._wall_s, end)
        timer.daemon = True
        timer.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(HEADER.pack(len(data), most_pixels))
            process.stdin.write(data)
            process.stdin.flush()
            response = json.loads(process.stdout.readline(LINE))
            decoded = _receive(response, process.stdout) if "size" in response else None
        except (OSError, ValueError) as error:  # the process ended in the middle
            with suppress(subprocess.TimeoutExpired):
                process.wait(EXIT_TIMEOUT_S)
            self.close()
            if process.returncode == -getattr(signal, "SIGKILL", 9) and not late.is_set():
                raise ServerBusy("decoder_busy") from error  # the out-of-memory killer
            raise InvalidImage("image_too_complex") from error
        except BaseException:  # Ctrl-C too: the pipe may hold half of a response
            self.close()
            raise
        finally:
            timer.cancel()
        if response["last"]:
            self._process = None
            _close(process)
        if decoded is None:
            raise InvalidImage(messages.from_json(response["error"]))
        return decoded

    def _ensure_started(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._process is None:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own program
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,  # libtiff writes its warnings there
                    env=_environment(),
                )
            except OSError as error:
                raise busy_if_passing(error) or error from error
        return self._process


def _environment() -> dict[str, str]:
    public = {name: value for name, value in os.environ.items() if not name.startswith(SECRET)}
    root = str(Path(__file__).resolve().parents[2])
    paths = filter(None, (root, os.environ.get("PYTHONPATH")))
    # Each thread reserves address space for its stack and its heap.
    threads = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    return public | threads | {"PYTHONPATH": os.pathsep.join(paths)}


def _receive(response: dict[str, Any], stream: IO[bytes]) -> DecodedImage:
    width, height = response["shown"]
    Image.core.set_block_size(BLOCK)  # type: ignore[attr-defined]
    image = Image.new("RGB", (width, height))
    for _, top, _, bottom in bands(image.size):
        pixels = stream.read(3 * width * (bottom - top))
        image.paste(Image.frombytes("RGB", (width, bottom - top), pixels), (0, top))
    return DecodedImage(image, (response["size"][0], response["size"][1]))


def _close(process: "subprocess.Popen[bytes]") -> None:
    """Close the pipes of an ending process, and wait for its end."""
    with suppress(OSError), process:  # unwritten data is not needed
        pass


DECODER = Decoder()
"""The decoder of this program: the limit holds for everything it decodes."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=DECODER._discard_process)
atexit.register(DECODER.close)


def main() -> None:
    """Answer requests until the input ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # for the parent; this process ends with it
    _set_limits()
    while len(head := sys.stdin.buffer.read(HEADER.size)) == HEADER.size:
        length, most_pixels = HEADER.unpack(head)
        _set_timer(CPU_LIMIT_S)
        is_last = _decode_request(sys.stdin.buffer.read(length), most_pixels or None)
        _set_timer(0)
        if is_last:
            return


def _decode_request(data: bytes, most_pixels: int | None) -> bool:
    """Write the response. Returns whether it is the last one of this process."""
    out, image = sys.stdout.buffer, None
    try:
        image, size = decode(data, most_pixels)
        response: dict[str, Any] = {"size": size, "shown": image.size}
    except InvalidImage as error:
        response = {"error": messages.to_json(error.message)}
    is_last = _peak_bytes() > RESTART_BYTES
    out.write(json.dumps(response | {"last": is_last}).encode() + b"\n")
    if image is not None:
        for box in bands(image.size):
            out.write(image.crop(box).tobytes())
    out.flush()
    return is_last


def _set_limits() -> None:
    """Set the resource limits that the system has.

    Also make the out-of-memory killer choose this process before the server.
    """
    with suppress(ImportError):
        import resource

        limits = {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": 0, "RLIMIT_AS": MEMORY_LIMIT_BYTES}
        for name, most in limits.items():
            with suppress(ValueError, OSError):
                resource.setrlimit(getattr(resource, name), (most, most))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _set_timer(seconds: float) -> None:
    """Have the system end this process after `seconds` of processor time; 0: never."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _peak_bytes() -> int:
    """Peak resident memory of this process; 0 if the system does not report it."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # the parent is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at its end
