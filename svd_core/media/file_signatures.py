"""File signatures: the kind of a file by its first bytes, for messages about unreadable files.

A signature does not say that the file is intact. Decoding does not depend on it.
"""

from collections.abc import Iterator

from svd_core.messages import Message

KNOWN = ("JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF", "AVIF", "HEIC")

HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
AVIF_BRANDS = {b"avif", b"avis"}

DECODED = (
    (b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"), (b"GIF8", "GIF"), (b"BM", "BMP"),
    (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"II+\0", "TIFF"), (b"MM\0+", "TIFF"),
)  # fmt: skip
"""Decoded formats, except WebP, AVIF and HEIC, whose first bytes vary."""

OTHER_PICTURES = (
    (b"\0\0\0\x0cJXL ", "JPEG XL"), (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"), (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"II\xbc\x01", "JPEG XR"), (b"8BPS", "Photoshop"), (b"gimp xcf", "GIMP"),
    (b"v/1\x01", "OpenEXR"), (b"#?R", "Radiance HDR"), (b"qoif", "QOI"), (b"DDS ", "DDS"),
    (b"\0\0\1\0", "ICO"), (b"icns", "ICNS"), (b"\x01\0\0\0\x6c\0\0\0", "EMF"),
    (b"\xd7\xcd\xc6\x9a", "WMF"), *((b"P%d" % n, "PNM") for n in range(1, 8)),
    *((start, "") for start in (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb")),
)  # fmt: skip

DOCUMENTS = (
    (b"%PDF", "pdf_document"), (b"%!PS", "postscript_document"), (b"{\\rtf", "text_document"),
    (b"PK\x03\x04", "archive"), (b"Rar!", "archive"), (b"7z\xbc\xaf", "archive"),
    (b"\x1f\x8b", "archive"), (b"\x1a\x45\xdf\xa3", "video_file"), (b"\0\0\1\xba", "video_file"),
    (b"ID3", "sound_file"), (b"OggS", "sound_file"), (b"fLaC", "sound_file"),
)  # fmt: skip
"""Codes of their names."""

PAGES = (b"<!doctype html", b"<html")


def is_heif(data: bytes) -> bool:
    """Whether `data` begins like HEIC: a box `ftyp` with one of its brands and none of AVIF's."""
    brands = set(_brands(data))
    return bool(brands & HEIF_BRANDS) and not brands & AVIF_BRANDS


def why_unreadable(data: bytes) -> Message:
    """Message about a file that no decoder can open."""
    if decoded := _match(data, DECODED) or _container(data):
        return Message("image_unreadable", format=decoded)
    picture = _match(data, OTHER_PICTURES)
    if picture is not None or b"crx " in _brands(data):
        return Message("image_unsupported_format", format=picture or Message("camera_raw"))
    if document := _document(data):
        return Message("image_is_document", document=Message(document), formats=KNOWN)
    return Message("image_unknown_format", formats=KNOWN)


def _container(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if AVIF_BRANDS & set(_brands(data)):
        return "AVIF"
    return "HEIC" if is_heif(data) else None


def _document(data: bytes) -> str | None:
    if data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(PAGES):
        return "web_page"
    if data[4:8] in (b"ftyp", b"moov") or (data[:4] == b"RIFF" and data[8:12] == b"AVI "):
        return "video_file"
    return _match(data, DOCUMENTS)


def _match(data: bytes, signatures: tuple[tuple[bytes, str], ...]) -> str | None:
    return next((name for start, name in signatures if data.startswith(start)), None)


def _brands(data: bytes) -> Iterator[bytes]:
    """The brands of an ISO media file, the main one first."""
    if data[4:8] == b"ftyp":
        end = min(int.from_bytes(data[:4], "big"), 256)
        yield from (data[start : start + 4] for start in (8, *range(16, end, 4)))
