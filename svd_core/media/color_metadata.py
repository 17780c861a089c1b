"""Colour metadata: the colour space that a picture file names, in any way of its format.

ICC profiles in every format; cICP, sRGB, gAMA and cHRM chunks of PNG; nclx boxes of AVIF and HEIC;
the Adobe RGB mark of EXIF; chromaticities of TIFF. Unusable ones are ignored, as by browsers, and
the photo is accepted. Reads bytes; `color_space.py` knows what they mean.
"""

import struct
import zlib
from contextlib import suppress
from typing import Any

from PIL import ExifTags, Image

from svd_core.media.color_space import (
    ADOBE_GAMMA,
    ADOBE_RGB,
    HLG,
    MAX_HDR,
    PQ,
    PRIMARIES,
    SRGB,
    SRGB_CURVE,
    ColorSpace,
    Primaries,
)
from svd_core.media.containers import item_properties, png_chunks

ColorMetadata = ColorSpace | bytes
"""A colour space, or an ICC profile."""

MAX_PROFILE_BYTES = 2**24
"""Bytes of an ICC profile in a PNG, where it is compressed. Profiles of printers have 1 to 4 MB."""

UNSPECIFIED = 2
"""Code point "not known" of H.273."""

VIDEO_TRANSFERS = (1, 6, 14, 15)
"""Code points of the camera curve of BT.709 and BT.2020. Cameras, converters and browsers mean
sRGB by them in photos."""

SRGB_GAMMA_TOLERANCE = 0.05
"""Relative distance from gamma 2.2 below which a PNG counts as sRGB, as in browsers."""

WHITE_POINT, PRIMARY_CHROMATICITIES = 318, 319
"""Tags of TIFF 6.0, section 20."""

NITS_STEPS = 10_000
"""Parts of a nit that the content light level of a PNG counts in."""


def read_color_metadata(image: Image.Image, data: bytes, exif: Image.Exif) -> ColorMetadata | None:
    """The colours that the file `data`, opened as `image`, names; None for sRGB."""
    color = _of_format(image, data) or _of_exif(exif)
    if isinstance(color, ColorSpace) and (color.is_srgb or not color.is_valid):
        return None
    return color


def _of_format(image: Image.Image, data: bytes) -> ColorMetadata | None:
    if image.format == "PNG":
        return _of_png(data)
    profile = image.info.get("icc_profile")
    if image.format == "BMP":
        profile = _bmp_profile(data)
    if isinstance(profile, bytes) and profile:
        return _of_profile(profile)
    if image.format in ("AVIF", "HEIF"):
        return _of_nclx(data)
    if image.format == "TIFF":
        return _of_tiff(image)
    return None


def _of_png(data: bytes) -> ColorMetadata | None:
    """The first of cICP, iCCP, sRGB and gAMA (PNG, third edition, section 13.14)."""
    chunks: dict[bytes, bytes] = {}
    for name, start, end in png_chunks(data):
        if name == b"IDAT":
            break
        chunks.setdefault(name, data[start:end])
    match list(chunks.get(b"cICP", b"")):
        case [primaries, transfer, 0, 1] if UNSPECIFIED not in (primaries, transfer):
            brightest = int.from_bytes(chunks.get(b"cLLI", b"")[:4], "big")
            peak = _peak(brightest / NITS_STEPS)
            return ColorSpace(PRIMARIES.get(primaries, SRGB), transfer, peak=peak)
    if b"iCCP" in chunks and (profile := _png_profile(chunks[b"iCCP"])) is not None:
        return _of_profile(profile)
    if b"sRGB" in chunks:
        return ColorSpace()
    if len(chunks.get(b"gAMA", b"")) == 4:
        return _of_gamma(chunks[b"gAMA"], chunks.get(b"cHRM", b""))
    return None


def _of_gamma(gamma_chunk: bytes, chromaticities: bytes) -> ColorSpace:
    """Both chunks count in units of 1/100,000; the first holds the inverse of gamma."""
    inverse = int.from_bytes(gamma_chunk, "big")
    gamma = 100_000 / inverse if inverse else 0.0
    primaries = SRGB
    if len(chromaticities) == 32:
        numbers = struct.iter_unpack(">LL", chromaticities)
        white, red, green, blue = ((x / 100_000, y / 100_000) for x, y in numbers)
        primaries = Primaries(red, green, blue, white)
    if primaries == SRGB and abs(gamma / 2.2 - 1) < SRGB_GAMMA_TOLERANCE:
        return ColorSpace()
    return ColorSpace(primaries, gamma=gamma)


def _png_profile(chunk: bytes) -> bytes | None:
    """The profile in an iCCP chunk: a name, a zero, the method zero, and compressed data."""
    with suppress(zlib.error):
        profile = zlib.decompressobj().decompress(chunk.partition(b"\0")[2][1:], MAX_PROFILE_BYTES)
        return profile if len(profile) < MAX_PROFILE_BYTES else None
    return None


def _peak(nits: float) -> float:
    """Peak of a picture whose brightest pixel has `nits`; 0: unknown."""
    return min(nits or MAX_HDR, MAX_HDR)


def _of_profile(profile: bytes) -> ColorMetadata:
    """An ICC profile, or the HDR space that it stands in for (ICC.1:2022, section 9.2.17)."""
    with suppress(struct.error):
        (count,) = struct.unpack_from(">L", profile, 128)
        for place in range(132, 132 + 12 * min(count, 100), 12):
            name, start = struct.unpack_from(">4sL", profile, place)
            if name == b"cicp":
                primaries, transfer = struct.unpack_from("BB", profile, start + 8)
                if transfer in (PQ, HLG):
                    return ColorSpace(PRIMARIES.get(primaries, SRGB), transfer)
    return profile


def _of_nclx(data: bytes) -> ColorSpace | None:
    """The colour box of the main picture, otherwise the first one, which is that of its tiles."""
    properties = item_properties(data)
    color = next((p for p in properties.get(b"colr", ()) if p[:4] == b"nclx"), None)
    if color is None and (place := data.find(b"colrnclx")) > 0:
        color = data[place + 4 : place + 15]
    if color is None or len(color) < 8:
        return None
    primaries, transfer = struct.unpack_from(">HH", color, 4)
    if transfer in VIDEO_TRANSFERS:
        transfer = SRGB_CURVE
    light = next(iter(properties.get(b"clli", ())), b"")
    peak = _peak(int.from_bytes(light[:2], "big"))
    return ColorSpace(PRIMARIES.get(primaries, SRGB), transfer, peak=peak)


def _bmp_profile(data: bytes) -> bytes | None:
    """The ICC profile after the pixels, as a header of version 5 names it."""
    with suppress(struct.error):
        (size,) = struct.unpack_from("<L", data, 14)
        kind, start, length = struct.unpack_from("<4s52xLL", data, 14 + 56)
        if size >= 124 and kind == b"DEBM":  # "MBED", backwards
            return data[14 + start : 14 + start + length]
    return None


def _of_tiff(image: Image.Image) -> ColorSpace | None:
    tags: Any = getattr(image, "tag_v2", {})
    with suppress(TypeError, ValueError, ZeroDivisionError):
        white = [float(value) for value in tags.get(WHITE_POINT, ())]
        lights = [float(value) for value in tags.get(PRIMARY_CHROMATICITIES, ())]
        if len(white) == 2 and len(lights) == 6:
            xy = [(lights[at], lights[at + 1]) for at in (0, 2, 4)]
            return ColorSpace(Primaries(xy[0], xy[1], xy[2], (white[0], white[1])))
    return None


def _of_exif(exif: Image.Exif) -> ColorSpace | None:
    """Adobe RGB, as cameras mark it (DCF 2.0): the interoperability index R03, and no profile."""
    with suppress(Exception):  # parsers fed with damaged data raise nearly anything
        index = exif.get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex)
        space = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
        if space == 2 or str(index).rstrip("\0") == "R03":
            return ColorSpace(ADOBE_RGB, gamma=ADOBE_GAMMA)
    return None
