"""Colours are read in each way in which a file names them; what cannot be used is ignored."""

import struct
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from svd_core.errors import InvalidImage
from svd_core.media.color_space import (
    ADOBE_GAMMA,
    ADOBE_RGB,
    BT2020,
    HLG,
    PQ,
    PRIMARIES,
    ColorSpace,
)
from svd_core.media.image_decoding import decode
from tests.fakes.color_pictures import (
    COLORS,
    P3_CHROMATICITIES,
    SRGB_CHROMATICITIES,
    adobe_exif,
    avif,
    bmp_with_profile,
    chromaticities,
    cicp,
    encoded,
    gamma,
    grey_profile,
    hdr_profile,
    heic,
    light_level,
    p3_profile,
    png,
    tile_colors,
    tiles,
    with_chunks,
    with_nclx,
    with_tag,
)

P3 = PRIMARIES[12]
SRGB_CHUNK = (b"sRGB", b"\0")


def found(data: bytes) -> list[tuple[int, ...]]:
    return tile_colors(decode(data).image)


def shown_as(space: ColorSpace, mode: str = "RGB") -> list[tuple[int, ...]]:
    return tile_colors(space.to_srgb(tiles(mode).convert("RGB")))


def difference(first: list[tuple[int, ...]], second: list[tuple[int, ...]]) -> int:
    return int(np.abs(np.array(first, np.int16) - np.array(second, np.int16)).max())


@pytest.mark.parametrize(
    ("chunks", "space"),
    [
        ([cicp(12, 13)], ColorSpace(P3)),
        ([cicp(9, 1)], ColorSpace(BT2020, 1)),
        ([cicp(1, 8)], ColorSpace(transfer=8)),
        ([cicp(9, PQ)], ColorSpace(BT2020, PQ)),
        ([cicp(9, HLG)], ColorSpace(BT2020, HLG)),
        ([cicp(12, PQ)], ColorSpace(P3, PQ)),
        ([cicp(9, PQ), light_level(150)], ColorSpace(BT2020, PQ, peak=150)),
        ([cicp(9, PQ), light_level(0)], ColorSpace(BT2020, PQ)),
        ([cicp(12, 13), SRGB_CHUNK, gamma(1)], ColorSpace(P3)),
        ([SRGB_CHUNK, gamma(1)], ColorSpace()),
        ([gamma(1)], ColorSpace(gamma=1)),
        ([gamma(1 / 1.8)], ColorSpace(gamma=1.8)),
        ([gamma(0.45455)], ColorSpace()),
        ([gamma(0.45455), chromaticities(SRGB_CHROMATICITIES)], ColorSpace()),
        ([gamma(1 / 2.2), chromaticities(P3_CHROMATICITIES)], ColorSpace(P3, gamma=2.2)),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "P", "L", "LA", "RGBA"])
def test_chunks_of_png(chunks: list[tuple[bytes, bytes]], space: ColorSpace, mode: str) -> None:
    assert difference(found(png(*chunks, mode=mode)), shown_as(space, mode)) <= 1


@pytest.mark.parametrize(
    "chunks",
    [
        [cicp(2, 2)],
        [cicp(77, 99)],
        [cicp(12, 13, full_range=0)],  # of video; browsers ignore it in pictures
        [cicp(12, 13, matrix=1)],
        [(b"cICP", b"\x0c")],
        [(b"cICP", b"")],
        [gamma(0)],
        [(b"gAMA", b"\0\0\0\x01")],
        [(b"gAMA", b"\xff\xff\xff\xff")],
        [gamma(1), chromaticities((0.0,) * 8)],
        [gamma(1), chromaticities((0.3127, 0.329, *[0.3] * 6))],
        [chromaticities(P3_CHROMATICITIES)],  # means nothing without gAMA
    ],
)
def test_chunks_of_png_that_cannot_be_used(chunks: list[tuple[bytes, bytes]]) -> None:
    assert found(png(*chunks)) == list(COLORS)


def test_a_grey_png_of_16_bits_has_its_gamma() -> None:
    deep = Image.fromarray(np.asarray(tiles("L"), np.uint16) * 257)
    data = with_chunks(encoded(deep, "PNG"), gamma(1))
    assert difference(found(data), shown_as(ColorSpace(gamma=1), "L")) <= 1


FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "PNG": lambda profile: png(icc_profile=profile),
    "JPEG": lambda profile: encoded(
        tiles(), "JPEG", quality=100, subsampling=0, icc_profile=profile
    ),
    "WEBP": lambda profile: encoded(tiles(), "WEBP", lossless=True, icc_profile=profile),
    "TIFF": lambda profile: encoded(tiles(), "TIFF", icc_profile=profile),
    "BMP": bmp_with_profile,
    "AVIF": lambda profile: encoded(
        tiles(), "AVIF", quality=100, subsampling="4:4:4", icc_profile=profile
    ),
}


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_icc_profiles(make: Callable[[bytes], bytes]) -> None:
    assert difference(found(make(p3_profile())), shown_as(ColorSpace(P3))) <= 4


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_icc_profiles_that_stand_in_for_hdr(make: Callable[[bytes], bytes]) -> None:
    assert difference(found(make(hdr_profile())), shown_as(ColorSpace(BT2020, PQ))) <= 6


def test_an_icc_profile_goes_before_other_chunks() -> None:
    data = png(SRGB_CHUNK, gamma(1), icc_profile=p3_profile())
    assert difference(found(data), shown_as(ColorSpace(P3))) <= 1
    data = png(cicp(9, 13), icc_profile=p3_profile())
    assert difference(found(data), shown_as(ColorSpace(BT2020))) <= 1


def test_an_icc_profile_of_some_megabytes_is_followed() -> None:
    """Pillow refuses more than one megabyte in a PNG."""
    large = with_tag(p3_profile(), b"zzzz", b"data" + bytes(3 * 2**20))
    assert difference(found(png(icc_profile=large)), shown_as(ColorSpace(P3))) <= 1


@pytest.mark.parametrize("profile", [b"no profile", p3_profile()[:200], hdr_profile()[:140]])
@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_icc_profiles_that_cannot_be_used(make: Callable[[bytes], bytes], profile: bytes) -> None:
    assert difference(found(make(profile)), list(COLORS)) <= 3


@pytest.mark.parametrize("mode", ["L", "LA"])
@pytest.mark.parametrize("exponent", [1.0, 1.8])
def test_icc_profiles_of_grey(mode: str, exponent: float) -> None:
    data = png(mode=mode, icc_profile=grey_profile(exponent))
    # Little CMS works with a table, which is coarse near black.
    assert difference(found(data), shown_as(ColorSpace(gamma=exponent), "L")) <= 5


def test_an_icc_profile_of_grey_with_16_bits() -> None:
    deep = Image.fromarray(np.asarray(tiles("L"), np.uint16) * 257)
    for kind in ("PNG", "TIFF"):
        data = encoded(deep, kind, icc_profile=grey_profile(1))
        assert difference(found(data), shown_as(ColorSpace(gamma=1), "L")) <= 5


@pytest.mark.parametrize("make", [avif, heic])
@pytest.mark.parametrize(
    ("primaries", "transfer", "space"),
    [
        (1, 13, ColorSpace()),
        (1, 1, ColorSpace()),  # the curve of cameras for video stands for sRGB in photos
        (2, 2, ColorSpace()),
        (12, 13, ColorSpace(P3)),
        (12, 2, ColorSpace(P3)),
        (9, 1, ColorSpace(BT2020)),
        (9, 14, ColorSpace(BT2020)),
        (1, 8, ColorSpace(transfer=8)),
        (9, PQ, ColorSpace(BT2020, PQ)),
        (12, PQ, ColorSpace(P3, PQ)),
        (9, HLG, ColorSpace(BT2020, HLG)),
    ],
)
def test_nclx_of_avif_and_heic(
    make: Callable[[int, int], bytes], primaries: int, transfer: int, space: ColorSpace
) -> None:
    plain = decode(make(1, 13)).image  # coding changes colours a little, too
    assert difference(tile_colors(plain), list(COLORS)) <= 3
    assert difference(found(make(primaries, transfer)), tile_colors(space.to_srgb(plain))) <= 1


def test_an_icc_profile_goes_before_nclx() -> None:
    whole = encoded(tiles(), "AVIF", quality=100, subsampling="4:4:4", icc_profile=p3_profile())
    data = with_nclx(whole, 9, PQ)
    assert difference(found(data), shown_as(ColorSpace(P3))) <= 4


def test_damaged_boxes_are_ignored() -> None:
    """Each byte of the boxes before the pixels is changed; nothing but `InvalidImage` comes out."""
    whole = avif(12, 13)
    for place in range(whole.index(b"mdat")):
        changed = bytearray(whole)
        changed[place] ^= 0xFF
        with suppress(InvalidImage):
            assert decode(bytes(changed)).image.mode == "RGB"


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_cameras_mark_adobe_rgb_in_exif(kind: str) -> None:
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    data = encoded(tiles(), kind, exif=adobe_exif(), **options.get(kind, {}))
    assert difference(found(data), shown_as(ColorSpace(ADOBE_RGB, gamma=ADOBE_GAMMA))) <= 4


def test_a_profile_goes_before_the_mark_in_exif() -> None:
    data = encoded(
        tiles(), "JPEG", quality=100, subsampling=0, exif=adobe_exif(), icc_profile=p3_profile()
    )
    assert difference(found(data), shown_as(ColorSpace(P3))) <= 4


def test_chromaticities_of_tiff() -> None:
    data = encoded(
        tiles(), "TIFF", tiffinfo={318: P3_CHROMATICITIES[:2], 319: P3_CHROMATICITIES[2:]}
    )
    assert difference(found(data), shown_as(ColorSpace(P3))) <= 1
    broken = encoded(tiles(), "TIFF", tiffinfo={318: (0.0, 0.0), 319: (0.0,) * 6})
    assert found(broken) == list(COLORS)


def test_a_profile_beyond_the_end_of_a_bmp_is_ignored() -> None:
    data = bytearray(bmp_with_profile(p3_profile()))
    data[14 + 112 : 14 + 116] = struct.pack("<L", 2**31)
    assert found(bytes(data)) == list(COLORS)


def test_hdr_keeps_transparency() -> None:
    data = png(cicp(9, PQ), mode="RGBA")
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    hidden = with_chunks(encoded(image, "PNG"), cicp(9, PQ))
    assert decode(hidden).image.getpixel((9, 9)) == (255, 255, 255)
    assert difference(found(data), shown_as(ColorSpace(BT2020, PQ))) <= 1
