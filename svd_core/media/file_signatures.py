"""File signatures: which kind of file bytes are, for sentences about files that cannot be read.

A signature says what a file claims to be, not that it is whole. Decoding does not depend on it.
"""

from collections.abc import Iterator

KNOWN = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC"

HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
AVIF_BRANDS = {b"avif", b"avis"}

DECODED = (
    (b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"), (b"GIF8", "GIF"), (b"BM", "BMP"),
    (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"II+\0", "TIFF"), (b"MM\0+", "TIFF"),
)  # fmt: skip
"""Formats that are decoded; WebP, AVIF and HEIC are recognized behind their first bytes."""

OTHER_PICTURES = (
    (b"\0\0\0\x0cJXL ", "JPEG XL"), (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"), (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"II\xbc\x01", "JPEG XR"), (b"8BPS", "Photoshop"), (b"gimp xcf", "GIMP"),
    (b"v/1\x01", "OpenEXR"), (b"#?R", "Radiance HDR"), (b"qoif", "QOI"), (b"DDS ", "DDS"),
    (b"\0\0\1\0", "ICO"), (b"icns", "ICNS"), (b"\x01\0\0\0\x6c\0\0\0", "EMF"),
    (b"\xd7\xcd\xc6\x9a", "WMF"), *((b"P%d" % n, "PNM") for n in range(1, 8)),
    (b"FUJIFILMCCD-RAW", "camera raw"), (b"IIRO", "camera raw"), (b"IIRS", "camera raw"),
    (b"MMOR", "camera raw"), (b"IIU\0", "camera raw"), (b"FOVb", "camera raw"),
)  # fmt: skip

DOCUMENTS = (
    (b"%PDF", "a PDF document"), (b"%!PS", "a PostScript document"), (b"{\\rtf", "a text document"),
    (b"PK\x03\x04", "an archive"), (b"Rar!", "an archive"), (b"7z\xbc\xaf", "an archive"),
    (b"\x1f\x8b", "an archive"), (b"\x1a\x45\xdf\xa3", "a video"), (b"\0\0\1\xba", "a video"),
    (b"ID3", "a sound file"), (b"OggS", "a sound file"), (b"fLaC", "a sound file"),
)  # fmt: skip

PAGES = (b"<!doctype html", b"<html")


def is_heif(data: bytes) -> bool:
    """Whether `data` begins like HEIC: a box `ftyp` that lists one of its brands and not AVIF's."""
    brands = set(_brands(data))
    return bool(brands & HEIF_BRANDS) and not brands & AVIF_BRANDS


def why_unreadable(data: bytes) -> str:
    """Sentence about a file that no decoder can open."""
    if decoded := _match(data, DECODED) or _container(data):
        return unusual(decoded)
    if (picture := _match(data, OTHER_PICTURES)) or b"crx " in _brands(data):
        return (
            f"The picture has the format {picture or 'camera raw'}, which cannot be read here; "
            "save it as JPEG or PNG and try again."
        )
    if document := _document(data):
        return f"The file is {document}, not a picture that can be read; choose a photo ({KNOWN})."
    return f"The file is not a picture that can be read, or its beginning is damaged; use {KNOWN}."


def unusual(format_name: str) -> str:
    """Sentence about a file of a known format that the decoder refuses."""
    return (
        f"This {format_name} file is damaged, or of a kind that cannot be read here; save the "
        "picture again as JPEG or PNG and try again."
    )


def _container(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if AVIF_BRANDS & set(_brands(data)):
        return "AVIF"
    return "HEIC" if is_heif(data) else None


def _document(data: bytes) -> str | None:
    if data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(PAGES):
        return "a web page"
    if data[4:8] in (b"ftyp", b"moov") or (data[:4] == b"RIFF" and data[8:12] == b"AVI "):
        return "a video"
    return _match(data, DOCUMENTS)


def _match(data: bytes, signatures: tuple[tuple[bytes, str], ...]) -> str | None:
    return next((name for start, name in signatures if data.startswith(start)), None)


def _brands(data: bytes) -> Iterator[bytes]:
    """The brands of an ISO media file, the main one first."""
    if data[4:8] == b"ftyp":
        end = min(int.from_bytes(data[:4], "big"), 256)
        yield from (data[start : start + 4] for start in (8, *range(16, end, 4)))
