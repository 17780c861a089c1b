"""Frames to an mp4 that every browser plays, and back, through the ffmpeg of imageio-ffmpeg."""

import re
import signal
import subprocess
import uuid
from contextlib import suppress
from pathlib import Path
from subprocess import CompletedProcess

import imageio_ffmpeg
import numpy as np

from svd_core.clip import Frames
from svd_core.errors import GenerationFailed, InvalidRequest, StorageFull, SvdError

PART = ".part"
"""How the name of an unfinished file ends."""

FULL = ("No space left on device", "Disk quota exceeded", "File too large")

# H.264 with 4:2:0 colours is what every browser decodes. Colours are converted to BT.709 and tagged
# so, else players guess. Threads are fixed and scaling is exact, so that the same frames give the
# same video on every machine: x264's choices depend on the number of its threads.
COLOURS = (
    "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+bitexact,format=yuv420p,"
    "setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709"
)
ENCODING = (
    *("-vf", COLOURS),
    *("-c:v", "libx264", "-preset", "medium", "-crf", "17", "-threads", "4"),
    *("-movflags", "+faststart", "-f", "mp4"),
)

# One demuxer, and files only: other containers can name addresses and files for ffmpeg to open.
SAFE = ("-f", "mov", "-protocol_whitelist", "file,pipe")


def write_mp4(frames: Frames, path: Path, fps: int, comment: str) -> Path:
    """Write `frames` to `path` at `fps` frames per second, with `comment` in its comment tag.

    Odd sides gain one pixel, a copy of the edge. The file appears under its name only when it is
    whole; on any failure nothing is left. Raises `StorageFull`, `GenerationFailed`.
    """
    height, width = frames.shape[1:3]
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    size = f"{even.shape[2]}x{even.shape[1]}"
    part = path.with_name(f"{path.stem}.{uuid.uuid4().hex}{PART}").absolute()
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(fps), "-i", "pipe:")
    try:
        tag = ("-metadata", f"comment={comment}")
        done = _ffmpeg(*source, *ENCODING, *tag, str(part), data=even.tobytes())
        if done.returncode != 0:
            raise _write_error(done.returncode, done.stderr.decode("utf-8", "replace"))
        part.replace(path)
    except OSError as error:
        raise _write_error(1, str(error)) from error
    finally:
        with suppress(OSError):  # it is gone, or its folder is; the error under way says more
            part.unlink()
    return path


def read_frames(path: Path) -> Frames:
    """Every frame of a video that `write_mp4` wrote. Raises `InvalidRequest` for other files."""
    # A damaged frame is no frame: stop at the first error.
    pictures = _read(path, "-xerror", "-f", "image2pipe", "-c:v", "ppm", "pipe:")
    header = re.match(rb"P6\n(\d+) (\d+)\n255\n", pictures)
    if header is None:
        raise _not_a_video(path)
    width, height = int(header[1]), int(header[2])
    rows = np.frombuffer(pictures, np.uint8).reshape(-1, header.end() + height * width * 3)
    return rows[:, header.end() :].reshape(-1, height, width, 3).copy()


def read_comment(path: Path) -> str | None:
    """The comment tag of a video, None if it has none. Raises `InvalidRequest` for other files."""
    tagged = _read(path, "-map", "0:v:0", "-c", "copy", "-f", "ffmetadata", "pipe:")
    tags = tagged.decode("utf-8", "replace")
    found = re.search(r"^comment=((?:\\.|[^\\\n])*)", tags, re.MULTILINE | re.DOTALL)
    return re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL) if found else None


def _read(path: Path, *output: str) -> bytes:
    if not path.is_file():
        raise InvalidRequest("video", f"There is no file {path.name}; check its name and folder.")
    done = _ffmpeg(*SAFE, "-i", str(path.absolute()), *output)
    if done.returncode != 0:
        raise _not_a_video(path)
    return done.stdout


def _not_a_video(path: Path) -> InvalidRequest:
    return InvalidRequest(
        "video", f"{path.name} is not a video that can be read; choose an mp4 made by this program."
    )


def _ffmpeg(*arguments: str, data: bytes = b"") -> "CompletedProcess[bytes]":
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
