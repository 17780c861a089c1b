"""Image decoding: from the bytes of a picture file to upright 8-bit sRGB.

Limits are checked before decompression. Colours are converted in bands, so that a picture takes the
memory of its decoder and one copy. `decoder_process.py` runs it in its own process.
"""

import io
import itertools
import warnings
from contextlib import suppress
from typing import NamedTuple

from PIL import AvifImagePlugin, ExifTags, Image, ImageCms

from svd_core.errors import InvalidImage
from svd_core.media.color_metadata import ColorMetadata, read_color_metadata
from svd_core.media.color_space import ColorSpace
from svd_core.media.containers import (
    LimitExceeded,
    check_container,
    check_directories,
    without_texts,
)
from svd_core.media.deep_images import GreyLevels, bands, check_layout, is_deep
from svd_core.media.file_signatures import KNOWN, is_heif, why_unreadable

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 40_000_000
"""120 MB as RGB. The main cameras of phones save 12 to 24 megapixels by default."""

MAX_JPEG_PIXELS = 110_000_000
"""Limit of JPEG, which is reduced to at most `MAX_PIXELS` while it is decoded. Cameras save up to
108 megapixels. The coefficients of a progressive file of that size take 650 MB."""

MIN_SIDE = 32
"""Shorter side in pixels. A smaller photo cannot be recognized at the model's size."""

MAX_RATIO = 8
"""Longer side by shorter side. Beyond it, a 16:9 crop keeps less than a quarter."""

BACKGROUND = (255, 255, 255)
"""Colour behind transparent pixels."""

THREADS = 2
"""Threads of the AVIF and HEIC decoders. The default is one per core, and each takes memory."""

# Allow-listed: Pillow's other readers see little use, and so little testing with hostile files.
FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition that turns a photo of that EXIF orientation upright; from 5 on the sides change."""


class DecodedImage(NamedTuple):
    """Decoded picture. `image`: RGB, upright. `size`: before `most_pixels` reduced it."""

    image: Image.Image
    size: tuple[int, int]


def decode(data: bytes, most_pixels: int | None = None) -> DecodedImage:
    """Decode the first frame of a picture file, reduced to `most_pixels` if it has more.

    Raises `InvalidImage` for unusable files, from the header alone where that is enough. It may
    take more than 20 times the bytes of the file, so call it in the decoder process.
    """
    check_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _decode_file(data, data, most_pixels)
        except InvalidImage:
            without = without_texts(data)
            if without is data:
                raise
            # Pillow refuses a PNG whose texts or profile are larger than it expects.
            return _decode_file(without, data, most_pixels)


def _decode_file(data: bytes, original: bytes, most_pixels: int | None) -> DecodedImage:
    """Decode `data`, whose colours are those of the file `original`."""
    opened = _open(data)
    _check_size(opened)
    try:
        return _decode(opened, original, most_pixels)
    except MemoryError as error:
        raise InvalidImage("image_too_complex") from error
    except Exception as error:  # parsers fed with damaged files raise nearly anything
        raise _undecodable(opened, error) from error


def _undecodable(image: Image.Image, error: Exception) -> InvalidImage:
    """The error for a picture whose header could be read.

    The decoders of these formats support only a part of them, and report the rest like damage.
    """
    names = {"TIFF": "TIFF", "AVIF": "AVIF", "HEIF": "HEIC"}
    if image.format in names:
        if "limit" in str(error).lower():
            return InvalidImage("image_too_complex")
        return InvalidImage("image_unreadable", format=names[image.format])
    return InvalidImage("image_damaged")


def check_bytes(data: bytes) -> None:
    """Raise `InvalidImage` for a file that is empty, too large, or an SVG drawing."""
    if not data:
        raise InvalidImage("image_empty", formats=KNOWN)
    if len(data) > MAX_BYTES:
        raise InvalidImage("image_file_too_large", most=MAX_BYTES >> 20)
    if data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and b"<svg" in data[:4096].lower():
        raise InvalidImage("image_is_svg")


def _open(data: bytes) -> Image.Image:
    """The picture with only its header read."""
    AvifImagePlugin.DEFAULT_MAX_THREADS = THREADS
    if is_heif(data):
        _register_heif()
    try:
        check_container(data)
        return Image.open(io.BytesIO(data), formats=("HEIF",) if is_heif(data) else FORMATS)
    except (LimitExceeded, MemoryError) as error:
        raise InvalidImage("image_too_complex") from error
    except Image.DecompressionBombError as error:
        raise InvalidImage("image_far_too_many_pixels", most=MAX_PIXELS // 10**6) from error
    except Exception as error:  # parsers fed with damaged files raise nearly anything
        raise InvalidImage(why_unreadable(data)) from error


def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError as error:
        raise InvalidImage("image_needs_heif") from error
    pillow_heif.options.DECODE_THREADS = THREADS
    pillow_heif.register_heif_opener()


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    size = {"width": width, "height": height}
    if image.format in ("JPEG", "MPO"):
        if width * height > MAX_JPEG_PIXELS:
            most = MAX_JPEG_PIXELS // 10**6
            raise InvalidImage("image_jpeg_too_many_pixels", most=most, **size)
    elif width * height > MAX_PIXELS:
        raise InvalidImage("image_too_many_pixels", most=MAX_PIXELS // 10**6, **size)
    if max(width, height) > MAX_RATIO * min(width, height):
        raise InvalidImage("image_too_narrow", most=MAX_RATIO, **size)
    if min(width, height) < MIN_SIDE:
        raise InvalidImage("image_too_small", least=MIN_SIDE, **size)


def _decode(opened: Image.Image, original: bytes, most_pixels: int | None) -> DecodedImage:
    if opened.width * opened.height > MAX_PIXELS:
        opened.draft("RGB", (opened.width // 2, opened.height // 2))
    check_layout(opened)
    opened.load()
    exif = _exif(opened)  # a PNG may have it at its end
    orientation = exif.get(ExifTags.Base.Orientation, 1)
    image = _to_rgb(opened, read_color_metadata(opened, original, exif))
    del opened
    size = image.size[::-1] if orientation in (5, 6, 7, 8) else image.size
    if most_pixels is not None and image.width * image.height > most_pixels:
        image = image.reduce(_factor(image.size, most_pixels))
    turn = TURNS.get(orientation)
    return DecodedImage(image if turn is None else image.transpose(turn), size)


def _factor(size: tuple[int, int], most_pixels: int) -> int:
    """Divisor of both sides that leaves at most `most_pixels`."""
    width, height = size
    return next(n for n in itertools.count(1) if -(-width // n) * -(-height // n) <= most_pixels)


def _exif(image: Image.Image) -> Image.Exif:
    """The EXIF data; none if it exceeds the limits, which counts as damage."""
    exif = image.info.get("exif")
    try:
        check_directories(exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else b"")
    except LimitExceeded:
        return Image.Exif()
    return image.getexif()


def _to_rgb(image: Image.Image, color: ColorMetadata | None) -> Image.Image:
    """`image` of any mode as sRGB, transparent pixels over `BACKGROUND`."""
    if image.mode == "RGB" and not image.has_transparency_data and color is None:
        return image
    levels = GreyLevels.of(image) if is_deep(image) else None
    rgb = Image.new("RGB", image.size)
    for box in bands(image.size):
        band = image.crop(box)
        if levels is not None:
            band = levels.to_eight_bit(band)
        rgb.paste(_flatten(band, color), box[:2])
    return rgb


def _flatten(image: Image.Image, color: ColorMetadata | None) -> Image.Image:
    if not image.has_transparency_data:
        return _to_srgb(image, color)
    alpha = image.convert("RGBA").getchannel("A")
    flat = Image.new("RGB", image.size, BACKGROUND)
    flat.paste(_to_srgb(image.convert("L" if image.mode == "LA" else "RGB"), color), mask=alpha)
    return flat


def _to_srgb(image: Image.Image, color: ColorMetadata | None) -> Image.Image:
    """`image` as RGB, converted from the colours of its file (phones save Display P3)."""
    if image.mode not in ("RGB", "CMYK", "L"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if isinstance(color, ColorSpace):
        return color.to_srgb(image.convert("RGB"))
    if color is not None:
        # A broken profile is common, and no reason to refuse the photo.
        with suppress(ImageCms.PyCMSError, OSError, ValueError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(color))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
            assert converted is not None  # None is for inPlace only
            return converted
    return image.convert("RGB")
