"""Video files: H.264 mp4 for browsers, a lossless format for storage, and reading of both."""

import re
from pathlib import Path

import numpy as np

from svd_core.errors import InvalidRequest
from svd_core.media.comment import not_a_video
from svd_core.media.comment import read_comment as read_comment
from svd_core.media.ffmpeg import atomic_write, encode, ffmpeg
from svd_core.types import Frames

# Every browser decodes H.264 with 4:2:0 colours. They are converted to BT.709 and tagged so, since
# players would guess otherwise. Scaling is exact and the number of threads is fixed, on which
# x264's choices depend, so that the same frames give the same video on every machine.
COLOURS = (
    "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+bitexact,format=yuv420p,"
    "setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709"
)
ENCODING = (
    *("-vf", COLOURS),
    *("-c:v", "libx264", "-preset", "medium", "-crf", "17", "-threads", "4"),
    *("-movflags", "+faststart", "-f", "mp4"),
)

# FFV1 took 0.5 to 0.8 s for 25 frames of 1024x576 on two cores, and 27 to 44 % of their bytes. Ut
# Video and x264's ultrafast save half a second, but their files are 20 to 100 % larger. A checksum
# in every slice reveals a damaged frame.
LOSSLESS = ("-c:v", "ffv1", "-level", "3", "-slices", "4", "-slicecrc", "1", "-pix_fmt", "gbrp")

# One demuxer, and files only: other containers can name addresses and files for ffmpeg to open.
SAFE_OPTIONS = ("-protocol_whitelist", "file,pipe")
MP4 = ("-f", "mov", *SAFE_OPTIONS)
MATROSKA = ("-f", "matroska", *SAFE_OPTIONS)

READ_MEMORY = 2**30
"""Bytes of address space. 150 frames of 1024x576 take 200 MB of it, with two threads."""

READING = ("-threads", "2")


def write_mp4(frames: Frames, path: Path, fps: int, comment: str) -> Path:
    """Write `frames` to `path` at `fps` frames per second, with `comment` in its comment tag.

    Odd sides gain one pixel, a copy of the edge. The write is atomic: on failure no file is left.
    Raises `StorageFull`, `GenerationFailed`.
    """
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with atomic_write(path) as part:
        tag = ("-metadata", f"comment={comment}")
        encode(*raw(frames, fps), *ENCODING, *tag, str(part), data=pixels(frames))
    return path


def write_lossless(frames: Frames, path: Path) -> Path:
    """Write `frames` to `path` without loss, for `read_lossless`.

    Raises what `write_mp4` raises.
    """
    with atomic_write(path) as part:
        encode(*raw(frames, 1), *LOSSLESS, "-f", "matroska", str(part), data=pixels(frames))
    return path


def raw(frames: Frames, fps: int) -> tuple[str, ...]:
    """Options of ffmpeg for `frames` as bytes on its input."""
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    return "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(fps), "-i", "pipe:"


def pixels(frames: Frames) -> memoryview:
    """The bytes of `frames` without a copy: an interpolated video may take a gigabyte."""
    return np.ascontiguousarray(frames).data.cast("B")


def read_frames(path: Path) -> Frames:
    """Read all frames of a video from `write_mp4`. Raises `InvalidRequest` for other files."""
    return _frames(path, MP4)


def read_lossless(path: Path) -> Frames:
    """Read frames from `write_lossless`. Raises `InvalidRequest` for other and damaged files."""
    return _frames(path, MATROSKA)


def read_rate(path: Path) -> int:
    """Playback rate of a video in frames per second, rounded.

    Raises `InvalidRequest` for other files.
    """
    lines = _read(path, MP4, "-map", "0:v:0", "-c", "copy", "-frames:v", "1", "-f", "framecrc", "-")
    text = lines.decode("utf-8", "replace")
    unit = re.search(r"^#tb 0: (\d+)/(\d+)$", text, re.MULTILINE)
    first = re.search(r"^0, +-?\d+, +-?\d+, +(\d+),", text, re.MULTILINE)  # its duration in units
    if unit is None or first is None or 0 in (int(unit[1]), int(first[1])):
        raise not_a_video(path)
    return round(int(unit[2]) / (int(unit[1]) * int(first[1])))


def _frames(path: Path, container: tuple[str, ...]) -> Frames:
    # Stop at the first error, so that no damaged frame is read.
    pictures = _read(path, container, "-xerror", "-f", "image2pipe", "-c:v", "ppm", "pipe:")
    header = re.match(rb"P6\n(\d+) (\d+)\n255\n", pictures)
    if header is None:
        raise not_a_video(path)
    width, height = int(header[1]), int(header[2])
    rows = np.frombuffer(pictures, np.uint8).reshape(-1, header.end() + height * width * 3)
    return rows[:, header.end() :].reshape(-1, height, width, 3).copy()


def _read(path: Path, container: tuple[str, ...], *output: str) -> bytes:
    if not path.is_file():
        raise InvalidRequest("file_missing", field="video", file=path.name)
    source = (*READING, *container, "-i", str(path.absolute()))
    done = ffmpeg(*source, *output, memory=READ_MEMORY)
    # For a wrong checksum or an early end ffmpeg only warns, and makes up the rest.
    if done.returncode != 0 or (container is MATROSKA and done.stderr):
        raise not_a_video(path)
    return done.stdout
