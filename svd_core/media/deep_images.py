"""Pictures of more than 8 bits for each channel, reduced to 8 bits.

Pillow itself reduces colours. It keeps the depth of grey, whose white is set by the format or by
TIFF's tags. Works in bands, so that a picture takes no second copy.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

BAND_PIXELS = 2**22
"""Pixels that are converted at a time."""

BITS, COMPRESSION, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 258, 259, 262, 284, 339
"""Tags of TIFF 6.0."""

WHITE_IS_ZERO, SEPARATE_PLANES, UNSIGNED, SIGNED = 0, 2, 1, 2


def bands(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) of whole rows that cover `size`."""
    width, height = size
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        yield 0, top, width, min(top + rows, height)


def is_deep(image: Image.Image) -> bool:
    """Whether a picture is grey with more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def check_layout(image: Image.Image) -> None:
    """Raise `ValueError` for a TIFF that Pillow would read wrongly.

    It reads deep, uncompressed channels in separate planes as if they had 8 bits.
    """
    if (
        _tag(image, PLANAR) == SEPARATE_PLANES
        and _tag(image, COMPRESSION) == 1
        and _tag(image, BITS) > 8
        and not is_deep(image)
    ):
        raise ValueError("deep channels in planes")


@dataclass(frozen=True)
class GreyLevels:
    """The numbers of black and white in a deep grey picture; black may be the larger one.

    `unsigned`: its 32-bit numbers have no sign, which Pillow ignores.
    """

    black: float
    white: float
    unsigned: bool = False

    @classmethod
    def of(cls, image: Image.Image) -> "GreyLevels":
        """Levels by mode and tags, or by the brightest pixel if these do not set white."""
        bits, form = _tag(image, BITS), _tag(image, SAMPLE_FORMAT, UNSIGNED)
        unsigned = image.mode == "I" and bits == 32 and form == UNSIGNED
        if image.mode.startswith("I;16"):
            white = 2.0 ** (bits or 16) - 1
        elif image.mode == "I" and bits == 16 and form == SIGNED:
            white = 2.0**15 - 1
        else:
            peak = max(float(_numbers(image.crop(b), unsigned).max()) for b in bands(image.size))
            white = next((level for level in (1.0, 255.0, 65535.0) if peak <= level), peak)
        if _tag(image, PHOTOMETRIC, 1) == WHITE_IS_ZERO:
            return cls(white, 0.0, unsigned)
        return cls(0.0, white, unsigned)

    def to_eight_bit(self, band: Image.Image) -> Image.Image:
        """A part of the picture with its levels scaled to 0..255."""
        light = (_numbers(band, self.unsigned) - self.black) * (255 / (self.white - self.black))
        return Image.fromarray(np.clip(light, 0, 255).round().astype(np.uint8))


def _numbers(image: Image.Image, unsigned: bool) -> npt.NDArray[np.float32]:
    numbers = np.asarray(image)
    if unsigned:
        numbers = numbers.astype(np.uint32)
    return np.nan_to_num(numbers.astype(np.float32), posinf=0.0, neginf=0.0)


def _tag(image: Image.Image, number: int, default: int = 0) -> int:
    """The first value of a TIFF tag; `default` for other formats."""
    tags: Any = getattr(image, "tag_v2", {})
    value = tags.get(number, default)
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else default
