"""Comment metadata: the recipe inside mp4, GIF, WebP or zip, read without decoding the file.

Invariant: at most `MAX_COMMENT` bytes are decompressed and at most `MAX_CHUNKS` parts are read, for
any file. Sources: APPNOTE.TXT (zip), the WebP container specification.
"""

import io
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from svd_core.errors import InvalidRequest, busy_if_passing
from svd_core.media.containers import (
    EXIF_IFD,
    LimitExceeded,
    check_directories,
    directory,
    find_box,
    first_directory,
    gif_comment,
    number,
)

RECIPE_NAME = "recipe.json"
"""Name of the recipe in a zip."""

MAX_COMMENT = 2**20
MAX_CHUNKS = 10_000
"""Most chunks of a WebP that are read."""

USER_COMMENT = 0x9286
MAX_TAIL = 2**16 + 22
"""Bytes of a zip's end record, with its comment."""


def read_comment(path: Path) -> str | None:
    """The comment that `export` or `write_mp4` put into a file, None if there is none.

    The first bytes of the file decide its format. Raises `InvalidRequest` for other files.
    """
    if not path.is_file():
        raise InvalidRequest("file_missing", field="video", file=path.name)
    try:
        with path.open("rb") as file:
            comment = _comment(file)
    except (OSError, ValueError, LookupError, struct.error, zlib.error) as error:
        raise busy_if_passing(error) or not_a_video(path) from error
    return None if comment is None else comment[:MAX_COMMENT].decode("utf-8", "replace")


def not_a_video(path: Path) -> InvalidRequest:
    """Error for a file that is not a readable video."""
    return InvalidRequest("video_unreadable", field="video", file=path.name)


def _comment(file: BinaryIO) -> bytes | None:
    head = file.read(12)
    size = file.seek(0, io.SEEK_END)
    if head[:4] == b"GIF8":
        file.seek(0)
        return _gif(file.read(MAX_COMMENT))
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return _webp(file, size)
    if head[:4] == b"PK\x03\x04":
        return _zip(file, size)
    if head[4:8] == b"ftyp":
        return _mp4(file, size)
    raise ValueError("another kind of file")


def _gif(data: bytes) -> bytes | None:
    if len(data) < 13 or not int.from_bytes(data[6:8], "little"):
        raise ValueError("no header")
    return gif_comment(data)


def _webp(file: BinaryIO, size: int) -> bytes | None:
    """The user comment in the EXIF data."""
    place, seen = 12, 0
    while place + 8 <= size and seen < MAX_CHUNKS:
        file.seek(place)
        kind, length = struct.unpack("<4sL", file.read(8))
        if not kind.strip().isalnum():
            raise ValueError("no chunk")
        if kind == b"EXIF":
            return _user_comment(file.read(min(length, MAX_COMMENT)).removeprefix(b"Exif\0\0"))
        place, seen = place + 8 + length + length % 2, seen + 1
    return None


def _user_comment(exif: bytes) -> bytes | None:
    check_directories(exif)
    for tag in directory(exif, first_directory(exif)):
        if tag.number == EXIF_IFD:
            for entry in directory(exif, number(exif, tag)):
                if entry.number == USER_COMMENT:
                    return exif[entry.start : entry.start + entry.size]
    return None


def _zip(file: BinaryIO, size: int) -> bytes | None:
    """The member `RECIPE_NAME`, stored or deflated; other methods do not decompress in part."""
    file.seek(max(0, size - MAX_TAIL))
    tail = file.read(MAX_TAIL)
    end = tail.rfind(b"PK\x05\x06")
    if end < 0:
        raise ValueError("no end record")
    length, start = struct.unpack_from("<LL", tail, end + 12)
    file.seek(start)
    listed = file.read(min(length, MAX_COMMENT))
    place = 0
    while listed[place : place + 4] == b"PK\x01\x02":
        _, method, packed, name, extra, note, at = struct.unpack_from(
            "<L6xH8xL4x3H8xL", listed, place
        )
        if listed[place + 46 : place + 46 + name] == RECIPE_NAME.encode():
            file.seek(at)
            own_name, own_extra = struct.unpack("<26x2H", file.read(30))
            file.seek(at + 30 + own_name + own_extra)
            return _decompress(file.read(min(packed, MAX_COMMENT)), method)
        place += 46 + name + extra + note
    return None


def _decompress(data: bytes, method: int) -> bytes:
    if method == 0:
        return data
    if method == 8:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, MAX_COMMENT)
    raise LimitExceeded("method")


def _mp4(file: BinaryIO, size: int) -> bytes | None:
    """The content of the box that ffmpeg and iTunes write."""
    moov = find_box(file, 0, size, b"moov")
    try:
        start, end = find_box(file, *moov, b"udta", b"meta", b"ilst", b"\xa9cmt", b"data")
    except KeyError:
        return None
    file.seek(start + 8)  # after type and locale
    return file.read(min(max(0, end - start - 8), MAX_COMMENT)) or None
