"""Pictures of known colours, in files that name their colour space in each possible way."""

import io
import struct
import zlib

import pillow_heif
from PIL import Image, ImageCms

COLORS = (
    (200, 60, 60), (60, 160, 90), (40, 70, 190), (128, 128, 128), (20, 20, 20),
    (240, 240, 240), (230, 200, 40), (64, 64, 64), (192, 192, 192), (10, 5, 2),
)  # fmt: skip
TILE = 32

P3_XYZ = (
    (0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407)
)  # fmt: skip
"""Red, green and blue of Display P3, adapted to the white D50 of ICC profiles."""

SRGB_CHROMATICITIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
P3_CHROMATICITIES = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
"""White, red, green and blue."""


def tiles(mode: str = "RGB") -> Image.Image:
    """One tile of each of `COLORS`, side by side in two rows."""
    image = Image.new("RGB", (TILE * 5, TILE * 2))
    for number, color in enumerate(COLORS):
        left, top = number % 5 * TILE, number // 5 * TILE
        image.paste(color, (left, top, left + TILE, top + TILE))
    return image.convert(mode)


def tile_centers() -> list[tuple[int, int]]:
    return [(n % 5 * TILE + TILE // 2, n // 5 * TILE + TILE // 2) for n in range(len(COLORS))]


def tile_colors(image: Image.Image) -> list[tuple[int, ...]]:
    return [image.convert("RGB").getpixel(center) for center in tile_centers()]  # type: ignore[misc]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(*chunks: tuple[bytes, bytes], mode: str = "RGB", **options: object) -> bytes:
    """`tiles` as a PNG with `chunks` after its header."""
    return with_chunks(encoded(tiles(mode), "PNG", **options), *chunks)


def with_chunks(whole: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """The PNG `whole` with `chunks` after its header."""
    added = b"".join(
        struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))
        for name, data in chunks
    )
    return whole[:33] + added + whole[33:]


def cicp(
    primaries: int, transfer: int, matrix: int = 0, full_range: int = 1
) -> tuple[bytes, bytes]:
    return b"cICP", bytes([primaries, transfer, matrix, full_range])


def gamma(encoding_exponent: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">L", round(encoding_exponent * 100_000))


def chromaticities(values: tuple[float, ...]) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8L", *(round(value * 100_000) for value in values))


def light_level(nits: float) -> tuple[bytes, bytes]:
    return b"cLLI", struct.pack(">LL", round(nits * 10_000), 0)


def avif(primaries: int, transfer: int, **options: object) -> bytes:
    whole = encoded(tiles(), "AVIF", quality=100, subsampling="4:4:4", **options)
    return with_nclx(whole, primaries, transfer)


def heic(primaries: int, transfer: int, **options: object) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(tiles()).save(file, quality=-1, chroma=444, **options)
    return with_nclx(file.getvalue(), primaries, transfer)


def with_nclx(whole: bytes, primaries: int, transfer: int) -> bytes:
    changed = bytearray(whole)
    place = whole.index(b"colrnclx") + 8
    changed[place : place + 4] = struct.pack(">HH", primaries, transfer)
    return bytes(changed)


def bmp_with_profile(profile: bytes) -> bytes:
    """A BMP of version 5 with an embedded ICC profile, which Pillow does not write."""
    image = tiles()
    pixels = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).tobytes("raw", "BGR")
    head = struct.pack(
        "<LllHHLLllLL", 124, image.width, image.height, 1, 24, 0, len(pixels), 2835, 2835, 0, 0
    )
    masks = struct.pack("<LLLL", 0xFF0000, 0xFF00, 0xFF, 0)
    end = struct.pack("<LLLL", 4, 124 + len(pixels), len(profile), 0)
    body = head + masks + b"DEBM" + bytes(48) + end + pixels + profile
    return b"BM" + struct.pack("<LHHL", 14 + len(body), 0, 0, 14 + 124) + body


def adobe_exif() -> bytes:
    """EXIF of a camera that is set to Adobe RGB."""
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 65535
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    return exif.tobytes()


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def p3_profile() -> bytes:
    """The sRGB profile with the primaries of Display P3."""
    profile = bytearray(srgb_profile())
    names = {b"rXYZ": P3_XYZ[0], b"gXYZ": P3_XYZ[1], b"bXYZ": P3_XYZ[2]}
    for index in range(int.from_bytes(profile[128:132], "big")):
        name, start, _ = struct.unpack_from(">4sLL", profile, 132 + 12 * index)
        if name in names:
            parts = (round(value * 65536) for value in names[name])
            profile[start + 8 : start + 20] = struct.pack(">lll", *parts)
    return bytes(profile)


def with_tag(profile: bytes, name: bytes, content: bytes) -> bytes:
    """An ICC profile with one more tag."""
    (count,) = struct.unpack_from(">L", profile, 128)
    listed = [struct.unpack_from(">4sLL", profile, 132 + 12 * n) for n in range(count)]
    entries = [(tag, start + 12, size) for tag, start, size in listed]
    body = profile[132 + 12 * count :]
    body += bytes(-len(body) % 4)
    entries.append((name, 132 + 12 * (count + 1) + len(body), len(content)))
    table = b"".join(struct.pack(">4sLL", *entry) for entry in entries)
    whole = profile[4:128] + struct.pack(">L", count + 1) + table + body + content
    return struct.pack(">L", len(whole) + 4) + whole


def hdr_profile() -> bytes:
    """A profile that stands in for PQ with the primaries of BT.2020 (version 4.4, tag cicp)."""
    profile = with_tag(p3_profile(), b"cicp", b"cicp" + bytes(4) + bytes([9, 16, 0, 1]))
    return profile[:8] + b"\x04\x40" + profile[10:]


def grey_profile(exponent: float) -> bytes:
    """A profile for grey pictures with one exponent."""
    white = struct.pack(">lll", 63190, 65536, 54061)
    curve = b"curv" + bytes(4) + struct.pack(">LH", 1, round(exponent * 256)) + bytes(2)
    text = b"text" + bytes(4) + b"x\0\0\0"
    name = b"desc" + bytes(4) + struct.pack(">L", 2) + b"x\0" + bytes(78)
    tags = {b"wtpt": b"XYZ " + bytes(4) + white, b"kTRC": curve, b"cprt": text, b"desc": name}
    place, table, body = 132 + 12 * len(tags), b"", b""
    for tag, content in tags.items():
        table += struct.pack(">4sLL", tag, place + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = b"lcms\x02\x40\0\0mntrGRAYXYZ " + bytes(12) + b"acsp" + bytes(28) + white + bytes(48)
    whole = head + struct.pack(">L", len(tags)) + table + body
    return struct.pack(">L", len(whole) + 4) + whole
