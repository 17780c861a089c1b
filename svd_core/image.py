"""From the bytes of a picture file to what the model sees: safe upright RGB, framed to size.

Somewhat long: there are many kinds of files, and each has its sentence.
"""

import io
import math
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, ImageFilter, ImageOps, UnidentifiedImageError
from PIL.Image import Resampling

from svd_core.errors import InvalidImage, InvalidRequest
from svd_core.params import Fit, Orientation, VideoParams

Size = tuple[int, int]
"""(width, height) in pixels."""

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of the upright photo; edges may fall between pixels."""

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 40_000_000
"""Decoded as RGB this is 120 MB; phones' main cameras save 12 to 24 megapixels by default."""

MIN_SIDE = 32
"""Shorter side in pixels. Below it, enlarging to the model's size leaves nothing to recognize."""

MAX_RATIO = 8
"""Longer side by shorter side. Beyond it, a 16:9 crop would keep less than a quarter."""

BACKDROP = (255, 255, 255)
"""What shows through transparent pixels."""

# Allow-listed: Pillow's other readers see little use, and so little testing with hostile files.
FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
KNOWN = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC"
DAMAGED = (
    "The image is damaged or cut off and cannot be read to its end; send the original file again."
)
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
AVIF_BRANDS = {b"avif", b"avis"}


@dataclass(frozen=True)
class Framed:
    """`image`: RGB, exactly `size`. `box`: the part of the upright photo that it shows."""

    image: Image.Image
    size: Size
    fit: Fit
    box: Box


def open_photo(data: bytes) -> Image.Image:
    """The picture in the file `data`: RGB, 8 bit, sRGB, upright, the first frame of an animation.

    Any sides of at least `MIN_SIDE` pixels go, small photos are enlarged later. Raises
    `InvalidImage` for everything that cannot be used, before decoding where the header tells.
    """
    _check_bytes(data)
    # The filter names one library only, since threads share the list of filters.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.|pillow_heif\.")
        opened = _open(data)
        _check_size(*opened.size)
        try:
            return _rgb(ImageOps.exif_transpose(opened))
        except Exception as error:  # parsers fed with damaged files raise nearly anything
            raise InvalidImage(DAMAGED) from error


def frame_photo(photo: Image.Image, sizes: Sequence[Size], params: VideoParams) -> Framed:
    """`photo` at that one of `sizes` that `size_for` chooses. Raises what it raises.

    `params.fit` "crop" fills the size and cuts what stands over, `focus_x` and `focus_y` choosing
    what stays; "pad" keeps the whole photo before a blurred copy of itself.
    """
    size = size_for(photo.size, sizes, params.orientation)
    box = shown_box(photo.size, size, params)
    if params.fit == "pad":
        return Framed(_padded(photo, size), size, "pad", box)
    return Framed(photo.resize(size, Resampling.LANCZOS, box=box), size, "crop", box)


def size_for(photo: Size, sizes: Sequence[Size], orientation: Orientation) -> Size:
    """The one of `sizes` nearest in shape, among those of `orientation`, the earlier one of equals.

    Raises `InvalidRequest` where the checkpoint has none of that orientation.
    """
    there = [size for size in sizes if orientation in ("auto", orientation_of(size))]
    if not there:
        known = ", ".join(dict.fromkeys(map(orientation_of, sizes)))
        raise InvalidRequest(
            "orientation", f"This model makes no {orientation} videos, only {known}."
        )
    return nearest_size(photo, there)


def orientation_of(size: Size) -> Orientation:
    width, height = size
    return "landscape" if width > height else "portrait" if width < height else "square"


def nearest_size(photo: Size, sizes: Sequence[Size]) -> Size:
    """The one of `sizes` nearest in shape: by the logarithm, twice as wide is as far as half."""

    def distance(size: Size) -> float:
        # 4:3, what most cameras take, lies exactly between 16:9 and 1:1; rounding keeps it a tie.
        return round(abs(math.log(size[0] * photo[1] / (size[1] * photo[0]))), 2)

    return min(sizes, key=distance)


def shown_box(photo: Size, size: Size, params: VideoParams) -> Box:
    """The part of `photo` that a frame of `size` shows."""
    if params.fit == "pad":
        return 0.0, 0.0, float(photo[0]), float(photo[1])
    return crop_box(photo, size, params.focus_x, params.focus_y)


def crop_box(photo: Size, size: Size, focus_x: float = 0.5, focus_y: float = 0.5) -> Box:
    """The largest part of `photo` with the shape of `size`. Focus 0..1: left to right, top down."""
    width = min(photo[0], photo[1] * size[0] / size[1])
    height = min(photo[1], photo[0] * size[1] / size[0])
    left = (photo[0] - width) * focus_x
    top = (photo[1] - height) * focus_y
    return left, top, min(left + width, photo[0]), min(top + height, photo[1])


def _padded(photo: Image.Image, size: Size) -> Image.Image:
    scale = min(size[0] / photo.width, size[1] / photo.height)
    fitted = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    front = photo.resize(fitted, Resampling.LANCZOS)
    if fitted == size:
        return front
    back = photo.resize(size, Resampling.BILINEAR, box=crop_box(photo.size, size))
    # Strong enough that the copy gives colour and light, and no second object to be animated.
    back = back.filter(ImageFilter.GaussianBlur(min(size) / 12))
    back.paste(front, ((size[0] - fitted[0]) // 2, (size[1] - fitted[1]) // 2))
    return back


def _check_bytes(data: bytes) -> None:
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
    """Reads the header only."""
    if _is_heif(data):
        _register_heif()
    try:
        return Image.open(io.BytesIO(data), formats=("HEIF",) if _is_heif(data) else FORMATS)
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
    pillow_heif.register_heif_opener()


def _check_size(width: int, height: int) -> None:
    shown = f"The image is {width} x {height} pixels"
    if width * height > MAX_PIXELS:
        raise InvalidImage(
            f"{shown}, more than {MAX_PIXELS // 10**6} megapixels; scale it down and try again.",
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


def _rgb(image: Image.Image) -> Image.Image:
    """`image` of any mode as sRGB, transparent pixels over `BACKDROP`."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _eight_bit(image).convert("RGB")
    profile = image.info.get("icc_profile")
    if not image.has_transparency_data:
        return _srgb(image if image.mode in ("RGB", "CMYK", "L") else image.convert("RGB"), profile)
    layers = image.convert("RGBA")
    flat = Image.new("RGB", image.size, BACKDROP)
    flat.paste(_srgb(layers.convert("RGB"), profile), mask=layers.getchannel("A"))
    return flat


def _eight_bit(image: Image.Image) -> Image.Image:
    """Deep grey scaled to 0..255. Where the mode leaves white open, the brightest pixel tells."""
    grey = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0.0, neginf=0.0)
    peak = float(grey.max())
    usual = (65535.0,) if image.mode.startswith("I;16") else (1.0, 255.0, 65535.0)
    white = next((white for white in usual if peak <= white), peak)
    return Image.fromarray(np.clip(grey * (255 / white), 0, 255).round().astype(np.uint8))


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """`image` as RGB, by its colour profile if it has a usable one (phones save Display P3)."""
    if profile:
        # A wrong profile is common, and no reason to refuse the photo.
        with suppress(ImageCms.PyCMSError, OSError, ValueError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            found = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
            assert found is not None  # it is for inPlace only
            return found
    return image.convert("RGB")
