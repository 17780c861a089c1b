"""Container limits against decompression bombs, checked in the bytes before decoding.

Only headers are read, and hardly any memory is allocated. Cameras, editors and this program stay
far below every limit, so a file beyond one is damaged or an attack.
"""

import io
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO, NamedTuple

MAX_JPEG_SCANS = 100
"""Progressive files usually have 10. Each scan costs a pass over the whole picture."""

MAX_JPEG_SEGMENTS = 10_000
MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
"""Start of a segment with a length, or end of the picture."""

MAX_GIF_BLOCKS = 20_000
"""Data blocks of at most 255 bytes before the first frame; 5 MB of colour profile or XMP."""

MAX_COMMENT = 2**18
"""Bytes of all comments of a GIF together. A recipe has at most 64 kB."""

MAX_TAGS = 4096
"""Entries of one image file directory (IFD), usually 10 to 60."""

MAX_TAG_VALUES = 2**20
"""Numbers in all tags. Each becomes a Python object of about 36 bytes."""

MAX_SHARED = 2**16
"""Bytes that tags may share, since some writers store equal resolutions once."""

MAX_TILE = 2**24
"""Pixels of one TIFF tile, usually 256x256."""

MAX_DIRECTORIES = 16

MAX_BOXES = 10_000
"""Boxes of an ISO media file that are read side by side."""

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_UNUSED = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
"""Chunks that may expand to any size and do not change the pixels."""

TILE_WIDTH, TILE_HEIGHT, EXIF_IFD = 0x0142, 0x0143, 0x8769
SUB_DIRECTORIES = (EXIF_IFD, 0x8825, 0xA005, 0x014A)
"""Tags whose value is the offset of another IFD: EXIF, GPS, interoperability, SubIFDs."""

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"II+\0", b"MM\0+")
TYPE_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)
TEXT_TYPES = (1, 2, 6, 7)
"""Types whose values are one string of bytes."""


class LimitExceeded(ValueError):
    """A file declares more than any photo needs."""


class Tag(NamedTuple):
    """Entry of an IFD. `start`: offset of its values. `size`: their bytes."""

    number: int
    type: int
    values: int
    start: int
    size: int


def check_container(data: bytes) -> None:
    """Raise `LimitExceeded` for a JPEG, GIF or TIFF beyond a limit."""
    if data[:2] == b"\xff\xd8":
        check_scans(data)
    elif data[:4] == b"GIF8":
        gif_comment(data)
    elif data[:4] in TIFF_MAGIC:
        check_directories(data)


def check_scans(data: bytes) -> None:
    """Raise `LimitExceeded` for a JPEG of too many scans or segments.

    Data after its end, such as the video of a motion photo, is ignored.
    """
    scans, place = 0, 2
    for _ in range(MAX_JPEG_SEGMENTS):
        # Within a scan, 0xff is followed by 0 or is a restart marker.
        marker = MARKER.search(data, place)
        if marker is None or marker[0] == b"\xff\xd9":
            return
        scans += marker[0] == b"\xff\xda"
        if scans > MAX_JPEG_SCANS:
            break
        place = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    raise LimitExceeded("scans")


def check_directories(data: bytes) -> None:
    """Raise `LimitExceeded` for TIFF or EXIF data whose tags are larger than the data itself.

    Tags may share bytes, so a small file can expand to any size. Damage is left to the decoder.
    """
    size = values = 0
    todo, seen = [first_directory(data)], set[int]()
    while todo:
        offset = todo.pop()
        if offset in seen:
            continue
        seen.add(offset)
        tile = {TILE_WIDTH: 1, TILE_HEIGHT: 1}
        for tag in directory(data, offset):
            size += min(tag.size, max(0, len(data) - tag.start))
            values += 0 if tag.type in TEXT_TYPES else tag.values
            if tag.number in tile:
                tile[tag.number] = number(data, tag)
            if tag.number in SUB_DIRECTORIES:
                todo.append(number(data, tag))
        too_many = values > MAX_TAG_VALUES or len(seen) > MAX_DIRECTORIES
        if too_many or size > len(data) + MAX_SHARED:
            raise LimitExceeded("tags")
        if tile[TILE_WIDTH] * tile[TILE_HEIGHT] > MAX_TILE:
            raise LimitExceeded("tile")


def first_directory(data: bytes) -> int:
    """Offset of the first IFD of TIFF data; past its end if there is none."""
    form, place = ("Q", 8) if _is_big(data) else ("L", 4)
    with suppress(struct.error):
        return int(struct.unpack_from(_order(data) + form, data, place)[0])
    return len(data)


def directory(data: bytes, offset: int) -> Iterator[Tag]:
    """The entries of the IFD at `offset`, as far as the data goes. Raises `LimitExceeded`."""
    order, big = _order(data), _is_big(data)
    head, entry, pointer = ("Q", "HHQ", "Q") if big else ("H", "HHL", "L")
    room = struct.calcsize(f"={pointer}")
    step = struct.calcsize(f"={entry}") + room
    with suppress(struct.error):
        (count,) = struct.unpack_from(order + head, data, offset)
        if count > MAX_TAGS:
            raise LimitExceeded("tags")
        start = offset + struct.calcsize(f"={head}")
        for place in range(start, start + count * step, step):
            tag, kind, values = struct.unpack_from(order + entry, data, place)
            size = values * (TYPE_BYTES[kind] if kind < len(TYPE_BYTES) else 0)
            at = place + step - room
            if size > room:
                (at,) = struct.unpack_from(order + pointer, data, at)
            yield Tag(tag, kind, values, at, size)


def number(data: bytes, tag: Tag) -> int:
    """The first value of a tag of whole numbers; 0 if there is none."""
    form = {3: "H", 4: "L", 13: "L", 16: "Q", 18: "Q"}.get(tag.type)
    with suppress(struct.error):
        if form is not None:
            return int(struct.unpack_from(_order(data) + form, data, tag.start)[0])
    return 0


def gif_comment(data: bytes) -> bytes | None:
    """The comments before the first frame of a GIF, None if there are none.

    Raises `LimitExceeded`.
    """
    place = 13 + (3 << (data[10] & 7) + 1 if len(data) > 12 and data[10] & 128 else 0)
    comments: list[bytes] = []
    blocks = size = 0
    while data[place : place + 1] == b"!":
        parts: list[bytes] = []
        is_comment = data[place + 1 : place + 2] == b"\xfe"
        place += 2
        while place < len(data) and (length := data[place]):
            blocks += 1
            size += length if is_comment else 0
            if blocks > MAX_GIF_BLOCKS or size > MAX_COMMENT:
                raise LimitExceeded("blocks")
            if is_comment:
                parts.append(data[place + 1 : place + 1 + length])
            place += 1 + length
        place += 1
        if is_comment:
            comments.append(b"".join(parts))
    return b"\n".join(comments) if comments else None


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name of each chunk of a PNG, and start and end of its content, as far as the data goes."""
    place = len(PNG_MAGIC)
    while data.startswith(PNG_MAGIC) and place + 12 <= len(data):
        length, name = struct.unpack_from(">L4s", data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            return
        yield name, place + 8, end
        place = end + 4


def without_texts(data: bytes) -> bytes:
    """A PNG without its texts and its colour profile; other files unchanged."""
    kept, place = [], 0
    for name, start, end in png_chunks(data):
        if name in PNG_UNUSED:
            kept.append(data[place : start - 8])
            place = end + 4
    return b"".join((*kept, data[place:])) if kept else data


def boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name of each box of an ISO media file, and start and end of its content.

    Covers the boxes side by side from `start` to `end` (ISO/IEC 14496-12, section 4.2). Raises
    `ValueError` for a box that is cut off.
    """
    for _ in range(MAX_BOXES):
        if start + 8 > end:
            return
        file.seek(start)
        size, name = struct.unpack(">L4s", file.read(8))
        inner = start + 8
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(8))
            inner += 8
        start = end if size == 0 else start + size
        if not inner <= start <= end:
            raise ValueError("a box is cut off")
        yield name, inner, start


def find_box(file: BinaryIO, start: int, end: int, *path: bytes) -> tuple[int, int]:
    """Start and end of the content of a box, by the names of the boxes around it and its own.

    Raises `KeyError` if there is none, and what `boxes` raises.
    """
    for name in path:
        for each, inner, stop in boxes(file, start, end):
            if each == name:
                start, end = inner + (4 if name == b"meta" else 0), stop  # its version and flags
                break
        else:
            raise KeyError(name)
    return start, end


def item_properties(data: bytes) -> dict[bytes, list[bytes]]:
    """Contents of the boxes that describe the main picture of an AVIF or HEIC, by their name."""
    file, properties = io.BytesIO(data), dict[bytes, list[bytes]]()
    with suppress(struct.error, ValueError, LookupError):
        meta = find_box(file, 0, len(data), b"meta")
        place, _ = find_box(file, *meta, b"pitm")
        (main,) = struct.unpack_from(">L" if data[place] else ">H", data, place + 4)
        place, _ = find_box(file, *meta, b"iprp", b"ipma")
        listed = list(boxes(file, *find_box(file, *meta, b"iprp", b"ipco")))
        for index in _associations(data, place).get(main, ()):
            name, start, end = listed[index - 1]
            properties.setdefault(name, []).append(data[start:end])
    return properties


def _associations(data: bytes, place: int) -> dict[int, list[int]]:
    """Numbers of the properties of each item, from 1 (ISO/IEC 23008-12, section 9.3.1)."""
    numbers: dict[int, list[int]] = {}
    item_form = ">LB" if data[place] else ">HB"
    form, mask = ("H", 0x7FFF) if data[place + 3] & 1 else ("B", 0x7F)
    (items,) = struct.unpack_from(">L", data, place + 4)
    place += 8
    for _ in range(min(items, MAX_TAGS)):
        item, count = struct.unpack_from(item_form, data, place)
        place += struct.calcsize(item_form)
        listed = struct.unpack_from(f">{count}{form}", data, place)
        numbers[item] = [number & mask for number in listed]
        place += count * struct.calcsize(form)
    return numbers


def _order(data: bytes) -> str:
    return ">" if data[:2] == b"MM" else "<"


def _is_big(data: bytes) -> bool:
    return b"+" in data[2:4]
