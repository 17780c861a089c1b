"""Framing: crop or pad an upright RGB photo to a size of the model."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter
from PIL.Image import Resampling

from svd_core.errors import InvalidRequest
from svd_core.media.decoder_process import DECODER
from svd_core.media.image_decoding import FORMATS as FORMATS
from svd_core.media.image_decoding import MAX_BYTES as MAX_BYTES
from svd_core.media.image_decoding import MAX_RATIO as MAX_RATIO
from svd_core.media.image_decoding import MIN_SIDE as MIN_SIDE
from svd_core.media.image_decoding import check_bytes
from svd_core.params import Fit, Orientation, VideoParams

Size = tuple[int, int]
"""(width, height) in pixels."""

Pixels = npt.NDArray[np.uint8]
"""(height, width, 3), RGB."""

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of the upright photo; edges may fall between pixels."""


@dataclass(frozen=True)
class FramedPhoto:
    """`image`: RGB, exactly `size`. `box`: the part of the upright photo that it shows."""

    image: Image.Image
    size: Size
    fit: Fit
    box: Box


def open_photo(data: bytes, *, patient: bool = False) -> Image.Image:
    """The picture in the file `data`: RGB, 8 bit, sRGB, upright, the first frame of an animation.

    Any sides of at least `MIN_SIDE` pixels go, small photos are enlarged later. It is decoded in
    the decoder process. Raises `InvalidImage` for everything that cannot be used, `ServerBusy`
    where too many pictures wait already; a job that was accepted is `patient` and waits for them.
    """
    check_bytes(data)
    return DECODER.decode(data, patient=patient).image


def frame_photo(photo: Image.Image, sizes: Sequence[Size], params: VideoParams) -> FramedPhoto:
    """`photo` at that one of `sizes` that `size_for` chooses. Raises what it raises.

    `params.fit` "crop" fills the size and cuts what stands over, `focus_x` and `focus_y` choosing
    what stays; "pad" keeps the whole photo before a blurred copy of itself.
    """
    size = size_for(photo.size, sizes, params.orientation)
    box = shown_box(photo.size, size, params)
    if params.fit == "pad":
        return FramedPhoto(_padded(photo, size), size, "pad", box)
    return FramedPhoto(photo.resize(size, Resampling.LANCZOS, box=box), size, "crop", box)


def to_png(pixels: Pixels) -> bytes:
    """One frame of a video as a picture file, without loss."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


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
