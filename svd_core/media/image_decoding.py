"""Image decoding: from the bytes of a picture file to upright 8-bit sRGB.

Everything is checked before it is decompressed, and converted in bands, so that a picture takes
the memory of its decoder and one copy. `decoder_process.py` runs it in its own process.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from PIL import AvifImagePlugin, ExifTags, Image, ImageCms, UnidentifiedImageError

from svd_core.errors import InvalidImage
from svd_core.media.containers import LimitExceeded, check_container, check_directories

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 40_000_000
"""Decoded as RGB this is 120 MB; phones' main cameras save 12 to 24 megapixels by default."""

MAX_JPEG_PIXELS = 110_000_000
"""Limit of JPEG, which is reduced to at most `MAX_PIXELS` while it is decoded. Cameras save up to
108 megapixels; a progressive file of that size takes 650 MB for its coefficients."""

MIN_SIDE = 32
"""Shorter side in pixels. Below it, enlarging to the model's size leaves nothing to recognize."""

MAX_RATIO = 8
"""Longer side by shorter side. Beyond it, a 16:9 crop would keep less than a quarter."""

BACKGROUND = (255, 255, 255)
"""Colour behind transparent pixels."""

THREADS = 2
"""Threads of the AVIF and HEIC decoders; by default they take one per core, and memory for each."""

BAND_PIXELS = 2**22
"""Pixels that are converted at a time."""

# Allow-listed: Pillow's other readers see little use, and so little testing with hostile files.
FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
KNOWN = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC"
DAMAGED = (
    "The image is damaged or cut off and cannot be read to its end; send the original file again."
)
TOO_LARGE = (
    "The image takes far more memory or time to read than a photo does; save it again as JPEG and "
    "try again."
)
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
AVIF_BRANDS = {b"avif", b"avis"}

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition that turns a photo of that EXIF orientation upright."""


class DecodedImage(NamedTuple):
    """Decoded picture. `image`: RGB, upright. `size`: before `most_pixels` reduced it."""

    image: Image.Image
    size: tuple[int, int]


def decode(data: bytes, most_pixels: int | None = None) -> DecodedImage:
    """Decode the first frame of a picture file, reduced to `most_pixels` if it has more.

    Raises `InvalidImage` for everything that cannot be used, if possible from the header alone. It
    may take 20 times the bytes of the file and more, so call it in the decoder process.
    """
    check_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = _open(data)
        _check_size(opened)
        try:
            return _decode(opened, most_pixels)
        except MemoryError as error:
            raise InvalidImage(TOO_LARGE) from error
        except Exception as error:  # parsers fed with damaged files raise nearly anything
            raise InvalidImage(DAMAGED) from error


def check_bytes(data: bytes) -> None:
    """Raise `InvalidImage` for a file that is empty, too large, or an SVG drawing."""
    if not data:
        raise InvalidImage(f"There is no image, or its file is empty; choose a photo ({KNOWN}).")
    if len(data) > MAX_BYTES:
        raise InvalidImage(
            f"The image file is larger than {MAX_BYTES >> 20} MB; save it smaller, "
            "for example as JPEG, and try again.",
            "bytes",
        )
    if data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and b"<svg" in data[:4096].lower():
        raise InvalidImage("The image is an SVG drawing; export it as PNG and try again.", "format")


def _open(data: bytes) -> Image.Image:
    """The picture with only its header read."""
    AvifImagePlugin.DEFAULT_MAX_THREADS = THREADS
    if _is_heif(data):
        _register_heif()
    try:
        check_container(data)
        return Image.open(io.BytesIO(data), formats=("HEIF",) if _is_heif(data) else FORMATS)
    except (LimitExceeded, MemoryError) as error:
        raise InvalidImage(TOO_LARGE) from error
    except Image.DecompressionBombError as error:
        raise InvalidImage(
            f"The image has far more than {MAX_PIXELS // 10**6} megapixels; "
            "scale it down and try again.",
            "too many pixels",
        ) from error
    except UnidentifiedImageError as error:
        raise InvalidImage(
            "The file is not a picture that can be read, or its beginning is damaged; "
            f"use {KNOWN}.",
            "format",
        ) from error
    except Exception as error:  # parsers fed with damaged files raise nearly anything
        raise InvalidImage(DAMAGED) from error


def _is_heif(data: bytes) -> bool:
    """Whether `data` begins like HEIC: a box `ftyp` that lists one of its brands and not AVIF's."""
    if data[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[start : start + 4] for start in (8, *range(16, end, 4))}
    return bool(brands & HEIF_BRANDS) and not brands & AVIF_BRANDS


def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError as error:
        raise InvalidImage(
            "The image is HEIC, which needs the package pillow-heif that is not installed here; "
            "save it as JPEG and try again.",
            "format",
        ) from error
    pillow_heif.options.DECODE_THREADS = THREADS
    pillow_heif.register_heif_opener()


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    shown = f"The image is {width} x {height} pixels"
    most = MAX_JPEG_PIXELS if image.format in ("JPEG", "MPO") else MAX_PIXELS
    if width * height > most:
        raise InvalidImage(
            f"{shown}, more than {most // 10**6} megapixels; scale it down and try again.",
            "too many pixels",
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise InvalidImage(
            f"{shown}, one side more than {MAX_RATIO} times the other; crop it and try again."
        )
    if min(width, height) < MIN_SIDE:
        raise InvalidImage(
            f"{shown}; use a photo with at least {MIN_SIDE} pixels on both sides.", "too few pixels"
        )


def _decode(opened: Image.Image, most_pixels: int | None) -> DecodedImage:
    if opened.width * opened.height > MAX_PIXELS:
        opened.draft("RGB", (opened.width // 2, opened.height // 2))
    opened.load()
    turn = TURNS.get(_orientation(opened))
    image = _to_rgb(opened)
    del opened
    size = image.size if turn is None or turn in _KEEPS_SIDES else image.size[::-1]
    if most_pixels is not None and image.width * image.height > most_pixels:
        image = image.reduce(_factor(image.size, most_pixels))
    return DecodedImage(image if turn is None else image.transpose(turn), size)


_KEEPS_SIDES = (
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM,
)


def _factor(size: tuple[int, int], most_pixels: int) -> int:
    """Divisor of both sides that leaves at most `most_pixels`."""
    factor = 1
    while -(-size[0] // factor) * -(-size[1] // factor) > most_pixels:
        factor += 1
    return factor


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8. EXIF data beyond the limits counts as damaged."""
    exif = image.info.get("exif")
    try:
        check_directories(exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else b"")
    except LimitExceeded:
        return 1
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    return orientation if isinstance(orientation, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """`image` of any mode as sRGB, transparent pixels over `BACKGROUND`."""
    if image.mode == "RGB" and not image.has_transparency_data and not _profile(image):
        return image
    white = _white(image) if _is_deep(image) else 0.0
    rgb = Image.new("RGB", image.size)
    for box in _bands(image.size):
        band = image.crop(box)
        rgb.paste(_to_eight_bit(band, white) if white else _flatten(band), box[:2])
    return rgb


def _bands(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) of whole rows that cover `size`."""
    width, height = size
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        yield 0, top, width, min(top + rows, height)


def _flatten(image: Image.Image) -> Image.Image:
    profile = _profile(image)
    if not image.has_transparency_data:
        return _to_srgb(
            image if image.mode in ("RGB", "CMYK", "L") else image.convert("RGB"), profile
        )
    layers = image.convert("RGBA")
    flat = Image.new("RGB", image.size, BACKGROUND)
    flat.paste(_to_srgb(layers.convert("RGB"), profile), mask=layers.getchannel("A"))
    return flat


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "F" or image.mode.startswith("I")


def _to_grey(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0.0, neginf=0.0)


def _white(image: Image.Image) -> float:
    """The level of white. If the mode leaves it open, the brightest pixel decides."""
    peak = max(float(_to_grey(image.crop(box)).max()) for box in _bands(image.size))
    candidates = (65535.0,) if image.mode.startswith("I;16") else (1.0, 255.0, 65535.0)
    return next((white for white in candidates if peak <= white), peak)


def _to_eight_bit(image: Image.Image, white: float) -> Image.Image:
    """Deep grey scaled to 0..255."""
    levels = np.clip(_to_grey(image) * (255 / white), 0, 255).round()
    return Image.fromarray(levels.astype(np.uint8)).convert("RGB")


def _profile(image: Image.Image) -> bytes | None:
    profile = image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) else None


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """`image` as RGB, by its colour profile if it has a usable one (phones save Display P3)."""
    if profile:
        # A broken profile is common, and no reason to refuse the photo.
        with suppress(ImageCms.PyCMSError, OSError, ValueError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
            assert converted is not None  # None is for inPlace only
            return converted
    return image.convert("RGB")
