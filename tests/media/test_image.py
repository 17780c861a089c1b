"""Every kind of picture file becomes safe upright RGB, or one clear sentence; and is framed."""

import io
import math
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
import pillow_heif
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageDraw

from svd_core.errors import InvalidImage, InvalidRequest
from svd_core.media.image import (
    MAX_BYTES,
    MAX_RATIO,
    MIN_SIDE,
    CachedPhoto,
    FramedPhoto,
    Size,
    crop_box,
    frame_photo,
    nearest_size,
    open_photo,
)
from svd_core.media.image_decoding import decode
from svd_core.params import VideoParams
from tests.fakes.color_pictures import with_chunks
from tests.fakes.errors import has_code

RED, GREEN, BLUE, YELLOW, WHITE = (
    (220, 30, 30),
    (30, 200, 40),
    (30, 40, 220),
    (230, 220, 20),
    (255,) * 3,
)
SIZES: tuple[Size, ...] = ((512, 288), (288, 512), (384, 384))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def quarters(width: int = 96, height: int = 64) -> Image.Image:
    """Red, green, blue, yellow: reading order. No turn or mirror of it looks the same."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(YELLOW, (width // 2, height // 2, width, height))
    return image


def photo_like(width: int = 200, height: int = 160) -> Image.Image:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    noise = np.random.default_rng(0).integers(0, 40, (height, width))
    return Image.fromarray(np.stack([x, y, (x + y) // 2 + noise], -1).astype(np.uint8))


def png(
    width: int, height: int, depth: int = 1, colour: int = 0, rows: bytes | None = None
) -> bytes:
    """A PNG by hand, blank unless `rows` are given: Pillow cannot write all that others write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    if rows is None:
        rows = bytes((width * depth + 15) // 8 * height)
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def tiff(photometric: int, bits: int, sample_format: int = 1, compression: int = 1) -> bytes:
    """A TIFF of 64x64 pixels by hand, of a kind that Pillow does not write."""
    samples = 3 if photometric == 2 else 1
    pixels = bytes(64 * 64 * samples * bits // 8)
    tags = [(256, 3, 1, 64), (257, 3, 1, 64), (258, 3, 1, bits), (259, 3, 1, compression),
            (262, 3, 1, photometric), (273, 4, 1, 200), (277, 3, 1, samples), (278, 3, 1, 64),
            (279, 4, 1, len(pixels)), (339, 3, 1, sample_format)]  # fmt: skip
    listed = b"".join(struct.pack("<HHLL", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<LH", 8, len(tags)) + listed + bytes(4)
    return head.ljust(200, b"\0") + pixels


def near(found: Image.Image, expected: Image.Image, tolerance: float = 4) -> bool:
    """Mean difference, since lossy formats smear edges."""
    difference = np.abs(np.asarray(found, np.int16) - np.asarray(expected.convert("RGB"), np.int16))
    return (
        found.mode == "RGB" and found.size == expected.size and float(difference.mean()) < tolerance
    )


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("MPO", {"quality": 95, "save_all": True, "append_images": [Image.new("RGB", (96, 64))]}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("AVIF", {"quality": 90}),
    ],
)
def test_every_format_opens(kind: str, options: dict[str, object]) -> None:
    assert near(open_photo(encoded(quarters(), kind, **options)), quarters())


def heic(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=90, **options)
    return file.getvalue()


def test_heic_opens() -> None:
    assert near(open_photo(heic(quarters())), quarters())


def test_a_turned_heic_is_upright_once() -> None:
    """The decoder turns HEIC by itself; turning by EXIF again would lay it on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = quarters().transpose(Image.Transpose.ROTATE_90)
    assert near(open_photo(heic(stored, exif=exif.tobytes())), quarters())


def test_heic_without_its_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InvalidImage, check=has_code("image_needs_heif")):
        decode(heic(quarters()))
    assert near(decode(encoded(quarters(), "AVIF", quality=90)).image, quarters())  # needs it not


def test_the_heic_package_is_loaded_only_when_needed() -> None:
    code = "import sys, svd_core.media.image; print('pillow_heif' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).stdout == b"False\n"


def stored_as(orientation: int, upright: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What a camera stores with this EXIF value: where its row 0 and column 0 are in the scene."""
    return {
        1: upright,  # top, left
        2: upright[:, ::-1],  # top, right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: upright.swapaxes(0, 1),  # left, top
        6: np.rot90(upright, 1),  # right, top
        7: upright[::-1, ::-1].swapaxes(0, 1),  # right, bottom
        8: np.rot90(upright, -1),  # left, bottom
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_photos_come_upright(orientation: int, kind: str) -> None:
    """Defect 10: sideways phone photos."""
    stored = Image.fromarray(np.ascontiguousarray(stored_as(orientation, np.asarray(quarters()))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert near(open_photo(encoded(stored, kind, exif=exif)), quarters(), tolerance=8)


def test_damaged_exif_is_no_reason_to_refuse() -> None:
    """Orientation 6, then a tag that points past the end; Pillow warns of it."""
    tags = struct.pack(">HHHLHH", 2, 0x0112, 3, 1, 6, 0) + struct.pack(">HHLL", 0x010F, 2, 9999, 0)
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + tags
    data = encoded(quarters(), "JPEG", exif=exif)
    assert open_photo(data).size == (64, 96)


def test_16_bit_grey_is_scaled() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        found = np.asarray(open_photo(encoded(Image.fromarray(ramp), kind)))
        assert np.abs(found[..., 0] - ramp / 257).max() <= 1
        assert (found[..., 0] == found[..., 2]).all()


def test_16_bit_colour_is_scaled() -> None:
    rows = b"".join(b"\0" + struct.pack(">HHH", 65535, 32768, 0) * 40 for _ in range(40))
    assert open_photo(png(40, 40, 16, 2, rows)).getpixel((20, 20)) == (255, 128, 0)


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0, 4e6])
@pytest.mark.parametrize("mode", ["F", "I"])
def test_deep_grey_without_a_given_white_is_scaled_by_its_brightest(
    mode: str, white: float
) -> None:
    kind = np.float32 if mode == "F" else np.int32
    ramp = np.tile(np.linspace(0, white, 64), (64, 1)).astype(kind)
    found = np.asarray(open_photo(encoded(Image.fromarray(ramp, mode), "TIFF")))
    assert (found[0, 0, 0], found[0, -1, 0]) == (0, 255)
    assert all(a <= b for a, b in pairwise(found[0, :, 0].tolist()))


def raw_tiff(size: tuple[int, int], samples: bytes, **tags: int | tuple[int, ...]) -> bytes:
    """An uncompressed TIFF of one strip for each channel or all. `tags`: names of TIFF 6.0."""
    numbers = {
        "bits": 258, "compression": 259, "photometric": 262, "strips": 273, "channels": 277,
        "rows": 278, "lengths": 279, "planar": 284, "format": 339,
    }  # fmt: skip
    strips = int(tags["channels"]) if tags.get("planar") == 2 else 1  # type: ignore[arg-type]
    start = 8 + len(samples)
    each = len(samples) // strips
    own = {
        "compression": 1, "rows": size[1], "lengths": (each,) * strips,
        "strips": tuple(8 + each * number for number in range(strips)),
    }  # fmt: skip
    entries = {256: size[0], 257: size[1], **{numbers[k]: v for k, v in (own | tags).items()}}
    table, rest = b"", b""
    for number, value in sorted(entries.items()):
        values = value if isinstance(value, tuple) else (value,)
        packed = struct.pack(f"<{len(values)}L", *values)
        if len(values) > 1:
            place = start + 2 + 12 * len(entries) + 4 + len(rest)
            rest, packed = rest + packed, struct.pack("<L", place)
        table += struct.pack("<HHL", number, 4, len(values)) + packed
    head = b"II*\0" + struct.pack("<L", start) + samples
    return head + struct.pack("<H", len(entries)) + table + bytes(4) + rest


def twelve_bits(values: NDArray[np.int64]) -> bytes:
    return int("".join(f"{value:012b}" for value in values.flat), 2).to_bytes(values.size * 3 // 2)


RAMP = np.tile(np.linspace(0, 1, 64), (64, 1))


@pytest.mark.parametrize(
    ("white", "encode", "tags"),
    [
        (2**12 - 1, twelve_bits, {"bits": 12}),
        (2**16 - 1, lambda v: v.astype("<u2").tobytes(), {"bits": 16}),
        (2**15 - 1, lambda v: v.astype("<i2").tobytes(), {"bits": 16, "format": 2}),
        (2**32 - 1, lambda v: v.astype("<u4").tobytes(), {"bits": 32}),
        (2**31 - 1, lambda v: v.astype("<i4").tobytes(), {"bits": 32, "format": 2}),
        (1, lambda v: v.astype("<f4").tobytes(), {"bits": 32, "format": 3}),
    ],
)
def test_grey_of_any_depth_has_the_white_of_its_file(
    white: int, encode: Callable[[NDArray[Any]], bytes], tags: dict[str, int]
) -> None:
    values = RAMP if white == 1 else (RAMP * white).round().astype(np.int64)
    data = raw_tiff((64, 64), encode(values), channels=1, photometric=1, **tags)
    assert np.abs(np.asarray(open_photo(data))[..., 0] - RAMP * 255).max() <= 1
    if 1 < white < 2**16:  # deeper numbers have the white of their brightest pixel
        data = raw_tiff((64, 64), encode(values // 2), channels=1, photometric=1, **tags)
        assert np.abs(np.asarray(open_photo(data))[..., 0] - RAMP * 127.5).max() <= 1


def test_grey_that_is_white_at_zero_is_turned() -> None:
    values = (RAMP * 65535).round().astype("<u2").tobytes()
    data = raw_tiff((64, 64), values, channels=1, photometric=0, bits=16)
    assert np.abs(np.asarray(open_photo(data))[..., 0] - (1 - RAMP) * 255).max() <= 1


def test_deep_colour_in_planes_is_refused_and_never_another_picture() -> None:
    planes = np.stack([RAMP, RAMP.T, 1 - RAMP])
    deep = (planes * 65535).round().astype("<u2").tobytes()
    options = {"channels": 3, "photometric": 2, "planar": 2}
    with pytest.raises(InvalidImage, match="TIFF"):
        open_photo(raw_tiff((64, 64), deep, bits=(16,) * 3, **options))
    flat = (planes * 255).round().astype(np.uint8)
    found = np.asarray(open_photo(raw_tiff((64, 64), flat.tobytes(), bits=(8,) * 3, **options)))
    assert (found == flat.transpose(1, 2, 0)).all()


def test_floats_that_are_no_numbers_are_black() -> None:
    field = np.full((40, 40), 0.5, np.float32)
    field[:10], field[10:20] = np.nan, np.inf
    found = open_photo(encoded(Image.fromarray(field), "TIFF"))
    assert [found.getpixel((5, y)) for y in (5, 15, 30)] == [(0,) * 3, (0,) * 3, (128,) * 3]


def test_cmyk() -> None:
    assert near(open_photo(encoded(quarters().convert("CMYK"), "JPEG", quality=95)), quarters(), 8)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
def test_other_modes_keep_their_picture(mode: str) -> None:
    image = quarters().convert(mode)
    assert near(open_photo(encoded(image, "PNG")), image, 1)


def half_hidden(kind: str) -> bytes:
    """Left half red, right half fully transparent with green behind it."""
    image = Image.new("RGBA", (80, 40), (*RED, 255))
    image.paste((*GREEN, 0), (40, 0, 80, 40))
    if kind == "palette PNG":
        flat = Image.new("P", (80, 40), 0)
        flat.putpalette([*RED, *GREEN])
        flat.paste(1, (40, 0, 80, 40))
        return encoded(flat, "PNG", transparency=b"\xff\x00")
    if kind == "colour key PNG":
        return encoded(image.convert("RGB"), "PNG", transparency=GREEN)
    if kind == "grey PNG":
        grey = Image.new("LA", (80, 40), (76, 255))
        grey.paste((200, 0), (40, 0, 80, 40))
        return encoded(grey, "PNG")
    if kind == "WEBP":
        return encoded(image, kind, lossless=True, exact=True)
    return encoded(image, kind)


KINDS = ["PNG", "palette PNG", "colour key PNG", "grey PNG", "WEBP", "GIF", "TIFF", "AVIF"]


@pytest.mark.parametrize("kind", KINDS)
def test_transparent_pixels_show_white(kind: str) -> None:
    """Defect 11: alpha dropped, so that hidden colours appear."""
    found = np.asarray(open_photo(half_hidden(kind)), np.int16)
    assert np.abs(found[:, 50:] - 255).max() <= 2
    assert found[20, 10, 1] < 100


def test_half_transparent_is_mixed_with_white() -> None:
    found = open_photo(encoded(Image.new("RGBA", (40, 40), (0, 0, 0, 128)), "PNG"))
    assert found.getpixel((20, 20)) == (127, 127, 127)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in (RED, GREEN, BLUE)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert near(open_photo(data), frames[0])


def swapped_profile() -> bytes:
    """The sRGB profile with red and green changed over: its bytes name each colour's place."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    place = {}
    for index in range(int.from_bytes(profile[128:132], "big")):
        start = 132 + 12 * index
        place[bytes(profile[start : start + 4])] = start
    red, green = place[b"rXYZ"], place[b"gXYZ"]
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colour_profiles_are_followed(mode: str) -> None:
    pure = Image.new("RGB", (40, 40), (255, 0, 0)).convert(mode)
    red, green, blue = open_photo(encoded(pure, "PNG", icc_profile=swapped_profile())).getpixel(
        (9, 9)
    )
    assert red < 10
    assert green > 245
    assert blue < 10


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
@pytest.mark.parametrize("profile", [b"no profile", swapped_profile()[:200], b""])
def test_unusable_profiles_are_ignored(mode: str, profile: bytes) -> None:
    image = quarters().convert(mode)
    assert near(open_photo(encoded(image, "JPEG", quality=95, icc_profile=profile)), image, 8)


BAD = [
    ("no image", b"", "image_empty", {}),
    ("text as png", b"hello, I am a letter\n" * 9, "image_unknown_format", {}),
    ("svg", b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "image_is_svg",
     {}),
    ("pdf", b"%PDF-1.7\n%\xe2\xe3", "image_is_document", {}),
    ("eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", "image_is_document", {}),
    ("mp4", b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41", "image_is_document", {}),
    ("20 MB + 1", b"\xff\xd8\xff" + bytes(MAX_BYTES - 2), "image_file_too_large", {"most": 20}),
    ("100 megapixels", png(10_000, 10_000), "image_too_many_pixels",
     {"width": 10_000, "height": 10_000, "most": 40}),
    ("400 megapixels", png(20_000, 20_000, rows=b""), "image_far_too_many_pixels", {"most": 40}),
    ("header alone", png(9_000, 9_000, rows=b""), "image_too_many_pixels", {"width": 9_000}),
    ("1x1", png(1, 1), "image_too_small", {"width": 1, "height": 1, "least": 32}),
    ("a side short", png(31, 64), "image_too_small", {"width": 31, "height": 64}),
    ("a strip", png(10_000, 10), "image_too_narrow", {"width": 10_000, "height": 10, "most": 8}),
    ("a tall strip", png(40, 40 * MAX_RATIO + 1), "image_too_narrow", {}),
    ("no pixels", png(64, 64, rows=b""), "image_damaged", {}),
    ("broken heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"junk" * 20, "image_unreadable", {}),
]  # fmt: skip


@pytest.mark.parametrize(("data", "code", "values"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_what_cannot_be_used_is_a_sentence(data: bytes, code: str, values: dict[str, int]) -> None:
    with pytest.raises(InvalidImage, check=has_code(code, **values)) as caught:
        open_photo(data)
    assert (caught.value.field, caught.value.status) == ("image", 422)
    assert caught.value.message.endswith(".")
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    "info",
    [
        {"zTXt": 2_500_000},
        {"iTXt": 2_500_000},
        {"tEXt": 5_000_000},
        {"zTXt": 19_000_000, "iTXt": 60_000_000},
    ],
)
@pytest.mark.parametrize("is_last", [False, True])
def test_long_texts_in_a_png_are_no_damage(info: dict[str, int], is_last: bool) -> None:
    """Image generators keep their workflow in there, editors their history."""
    whole = encoded(quarters(), "PNG")
    chunks = []
    for name, length in info.items():
        text = b"{" + b"node " * (length // 5)
        if name == "tEXt":
            chunks.append((b"tEXt", b"workflow\0" + text))
        elif name == "zTXt":
            chunks.append((b"zTXt", b"workflow\0\0" + zlib.compress(text)))
        else:
            chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(text)))
    place = whole.index(b"IEND") - 4 if is_last else 33
    added = with_chunks(whole[:33], *chunks)[33:]
    found = open_photo(whole[:place] + added + whole[place:])
    assert near(found, quarters(), 0.1)


def test_damage_in_the_pixels_of_a_png_is_still_damage() -> None:
    whole = encoded(photo_like(), "PNG")
    data = with_chunks(whole[: len(whole) // 2], (b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7))))
    with pytest.raises(InvalidImage, check=has_code("image_damaged")):
        open_photo(data)


UNUSUAL = {
    "JPEG of 12 bits": (
        "JPEG", encoded(quarters(), "JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
    ),
    "TIFF of floats": ("TIFF", tiff(photometric=2, bits=32, sample_format=3)),
    "TIFF of 64 bits": ("TIFF", tiff(photometric=1, bits=64, sample_format=1)),
    "TIFF of a compression": ("TIFF", tiff(photometric=2, bits=8, compression=50002)),
    "WebP": ("WebP", b"RIFF\x20\0\0\0WEBPVP9 " + bytes(20)),
    "AVIF": ("AVIF", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + b"junk" * 20),
    "HEIC": ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"junk" * 20),
    "BMP": ("BMP", encoded(quarters(), "BMP").replace(b"\x18\0\0\0\0\0", b"\x18\0\x05\0\0\0", 1)),
}  # fmt: skip


@pytest.mark.parametrize(("name", "data"), UNUSUAL.values(), ids=UNUSUAL)
def test_what_a_decoder_does_not_know_is_not_called_damaged_alone(name: str, data: bytes) -> None:
    with pytest.raises(InvalidImage, check=has_code("image_unreadable", format=name)):
        open_photo(data)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\xff\x0a\x12\x34", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"8BPS\0\x01", "Photoshop"),
        (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "Camera raw"),
        (b"FUJIFILMCCD-RAW 0201", "Camera raw"),
    ],
)
def test_pictures_of_other_formats_are_named(data: bytes, name: str) -> None:
    with pytest.raises(InvalidImage, check=has_code("image_unsupported_format", format=name)):
        open_photo(data + bytes(100))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"%PDF-1.7", "a PDF document"),
        (b"PK\x03\x04\x14\0", "an archive"),
        (b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2", "a video"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "a video"),
        (b"\x1a\x45\xdf\xa3\x01", "a video"),
        (b"\n <!DOCTYPE html><html>", "a web page"),
        (b"\xef\xbb\xbf<HTML>", "a web page"),
    ],
)
def test_files_of_other_kinds_are_named(data: bytes, name: str) -> None:
    with pytest.raises(InvalidImage, check=has_code("image_is_document", document=name)):
        open_photo(data + bytes(100))


def test_a_large_heic_says_what_helps() -> None:
    data = bytearray(heic(quarters()))
    place = data.index(b"ispe") + 8
    data[place : place + 8] = struct.pack(">LL", 8064, 6048)
    with pytest.raises(
        InvalidImage, check=has_code("image_too_many_pixels", width=8064, height=6048, most=40)
    ):
        open_photo(bytes(data))


def test_the_100_megapixels_come_in_a_few_kilobytes() -> None:
    assert len(png(10_000, 10_000)) < 20_000


def test_a_photo_that_mentions_svg_is_no_drawing() -> None:
    assert near(open_photo(encoded(quarters(), "JPEG", quality=95, comment=b"<svg>")), quarters())


def test_limits_themselves_are_allowed() -> None:
    assert open_photo(png(MIN_SIDE, MIN_SIDE * MAX_RATIO)).size == (MIN_SIDE, MIN_SIDE * MAX_RATIO)
    whole = encoded(quarters(), "JPEG", quality=95)
    assert near(open_photo(whole + bytes(MAX_BYTES - len(whole))), quarters())


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF"])
def test_truncated_files_are_refused(kind: str, kept: float) -> None:
    data = encoded(photo_like(), kind)
    with pytest.raises(InvalidImage):
        open_photo(data[: int(len(data) * kept)])


def test_truncated_heic_is_refused() -> None:
    data = heic(photo_like())
    with pytest.raises(InvalidImage):
        open_photo(data[: len(data) * 2 // 3])


WHOLE = [
    encoded(photo_like(72, 48), kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")
]


@given(
    whole=st.sampled_from([*WHOLE, encoded(photo_like(72, 48), "AVIF"), heic(photo_like(72, 48))]),
    edits=st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=6)), min_size=1, max_size=4),
)
def test_damaged_files_open_or_are_refused(whole: bytes, edits: list[tuple[int, bytes]]) -> None:
    data = bytearray(whole)
    for place, new in edits:
        data[place : place + len(new)] = new
    with suppress(InvalidImage):
        assert open_photo(bytes(data)).mode == "RGB"


@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidImage):
        open_photo(data)


@given(
    width=st.integers(MIN_SIDE, 500),
    height=st.integers(MIN_SIDE, 500),
    fit=st.sampled_from(["crop", "pad"]),
    focus=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    sizes=st.lists(st.tuples(st.integers(8, 40), st.integers(8, 40)), min_size=1, max_size=4),
)
def test_framing_always_fits(
    width: int, height: int, fit: str, focus: tuple[float, float], sizes: list[Size]
) -> None:
    """Defect 3: pictures of another shape are stretched."""
    assume(max(width, height) <= MAX_RATIO * min(width, height))
    sizes = [(w * 8, h * 8) for w, h in sizes]
    params = VideoParams(fit=fit, focus_x=focus[0], focus_y=focus[1])  # type: ignore[arg-type]
    framed = frame_photo(Image.new("RGB", (width, height), RED), sizes, params)
    assert (framed.image.size, framed.image.mode, framed.fit) == (framed.size, "RGB", fit)
    assert framed.size in sizes
    left, top, right, bottom = framed.box
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    if fit == "pad":
        assert framed.box == (0, 0, width, height)
    else:
        across, down = framed.size[0] / (right - left), framed.size[1] / (bottom - top)
        assert math.isclose(across, down, rel_tol=1e-6)
        assert math.isclose(right - left, width) or math.isclose(bottom - top, height)


@pytest.mark.parametrize(
    ("photo", "expected"),
    [
        ((4000, 3000), (512, 288)),
        ((3000, 4000), (288, 512)),
        ((1280, 1024), (384, 384)),
        ((3000, 2000), (512, 288)),
        ((2000, 3000), (288, 512)),
        ((1000, 1000), (384, 384)),
        ((5000, 700), (512, 288)),
        ((512, 288), (512, 288)),
    ],
)
def test_nearest_shape(photo: Size, expected: Size) -> None:
    assert nearest_size(photo, SIZES) == expected


@pytest.mark.parametrize("width", [4000, 4001, 4032, 3999, 640, 1333])
def test_cameras_4_to_3_is_halfway_and_takes_the_trained_size(width: int) -> None:
    sizes = [(1024, 576), (576, 1024), (768, 768)]
    assert nearest_size((width, round(width * 3 / 4)), sizes) == (1024, 576)
    assert nearest_size((round(width * 3 / 4), width), sizes) == (576, 1024)


def test_of_equal_shapes_the_first_is_taken() -> None:
    assert nearest_size((500, 500), [(64, 64), (128, 128)]) == (64, 64)
    assert nearest_size((100, 100), [(64, 128), (128, 64)]) == (64, 128)


def framed(photo: Image.Image, size: Size, **params: object) -> FramedPhoto:
    return frame_photo(photo, [size], VideoParams.from_mapping(params))


@pytest.mark.parametrize(
    ("photo", "focus", "colour"),
    [
        ((960, 128), {"focus_x": 0}, RED),
        ((960, 128), {"focus_x": 1}, BLUE),
        ((128, 960), {"focus_y": 0}, RED),
        ((128, 960), {"focus_y": 1}, BLUE),
    ],
)
def test_focus_chooses_what_a_crop_keeps(
    photo: Size, focus: dict[str, int], colour: object
) -> None:
    image = Image.new("RGB", photo, RED)
    image.paste(
        BLUE, (photo[0] // 2, 0, *photo) if photo[0] > photo[1] else (0, photo[1] // 2, *photo)
    )
    assert framed(image, (128, 128), **focus).image.getcolors() == [(128 * 128, colour)]


def test_focus_is_in_the_middle_if_not_given() -> None:
    assert crop_box((300, 100), (100, 100)) == (100, 0, 200, 100)


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_photo_of_the_right_size_passes_untouched(fit: str) -> None:
    photo = photo_like(512, 288)
    assert framed(photo, (512, 288), fit=fit).image == photo


def test_the_box_is_what_is_seen() -> None:
    photo = photo_like(600, 200)
    cut = framed(photo, (64, 64), focus_x=0.3)
    assert near(cut.image, photo.crop([round(edge) for edge in cut.box]).resize((64, 64)), 3)


def test_padding_shows_the_whole_photo_undistorted() -> None:
    found = framed(quarters(96, 64), (320, 320), fit="pad").image
    assert near(found.crop((0, 54, 320, 267)), quarters(320, 213), 4)


def test_padding_is_a_blurred_copy_and_not_black() -> None:
    photo = Image.new("RGB", (300, 100), RED)
    ImageDraw.Draw(photo).rectangle((150, 0, 299, 99), fill=YELLOW)
    found = np.asarray(framed(photo, (256, 256), fit="pad").image, np.int16)
    assert (found.min(axis=(0, 1)) >= np.array([220, 30, 20]) - 8).all()  # the photo's darkest
    steps = np.abs(np.diff(found[10], axis=0)).max()
    assert 0 < steps < 30  # soft, where the photo has a step of 190
    assert np.abs(np.diff(found[128], axis=0)).max() > 60


WIDE_FIRST = [(512, 288), (288, 512), (384, 384)]


@pytest.mark.parametrize("photo", [(300, 200), (200, 300), (200, 200)])
@pytest.mark.parametrize(
    ("orientation", "size"),
    [("landscape", (512, 288)), ("portrait", (288, 512)), ("square", (384, 384))],
)
def test_the_shape_can_be_chosen(photo: Size, orientation: str, size: Size) -> None:
    params = VideoParams.from_mapping({"orientation": orientation})
    framed = frame_photo(photo_like(*photo), WIDE_FIRST, params)
    assert (framed.size, framed.image.size) == (size, size)


def test_of_several_sizes_of_a_shape_the_nearest_is_taken() -> None:
    sizes = [(512, 256), (512, 384), (256, 512)]
    params = VideoParams(orientation="landscape")
    assert frame_photo(photo_like(100, 300), sizes, params).size == (512, 384)


def test_a_shape_that_a_model_does_not_make_is_told() -> None:
    with pytest.raises(InvalidRequest, match="square videos.*: landscape, portrait") as caught:
        frame_photo(photo_like(), [(512, 288), (288, 512)], VideoParams(orientation="square"))
    assert caught.value.field == "orientation"


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("orientation", ["auto", "portrait"])
@pytest.mark.parametrize("photo", [(3001, 2003), (2500, 4400), (4096, 3072), (200, 160)])
def test_framing_is_tried_out_with_the_picture_that_will_be_used(
    photo: Size, orientation: str, fit: str
) -> None:
    data = encoded(photo_like(*photo), "JPEG", quality=90)
    params = VideoParams.from_mapping(
        {"fit": fit, "orientation": orientation, "focus_x": 0.2, "focus_y": 0.9}
    )
    real = frame_photo(open_photo(data), SIZES, params)
    shown = CachedPhoto(data).frame(SIZES, params)
    assert (shown.size, shown.fit) == (real.size, real.fit)
    assert shown.box == pytest.approx(real.box)
    difference = np.abs(np.asarray(shown.image, float) - np.asarray(real.image))
    assert difference.mean() < 1.5


def test_framing_is_tried_out_upright() -> None:
    image = quarters(4000, 3000)
    exif = Image.Exif()
    exif[0x0112] = 6
    shown = CachedPhoto(encoded(image.rotate(90, expand=True), "JPEG", exif=exif))
    assert shown.frame(SIZES, VideoParams()).size == (512, 288)


def test_what_cannot_be_framed_is_refused_when_tried_out() -> None:
    with pytest.raises(InvalidImage, check=has_code("image_unknown_format")):
        CachedPhoto(b"hello")


def test_small_photos_are_enlarged() -> None:
    photo = open_photo(encoded(quarters(MIN_SIDE, MIN_SIDE), "PNG"))
    assert near(framed(photo, (512, 512)).image, quarters(512, 512), 12)


def test_shrinking_does_not_alias() -> None:
    """Fine stripes must turn grey; picking single pixels would leave them black or white."""
    stripes = np.zeros((640, 640, 3), np.uint8)
    stripes[:, ::2] = 255
    found = np.asarray(framed(Image.fromarray(stripes), (64, 64)).image, np.int16)
    assert np.abs(found[:, 2:-2] - 127).max() < 20
