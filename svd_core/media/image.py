"""Photos: opening, framing to a size of the model, and the framing preview.

Framing crops or pads an upright RGB photo. The preview keeps a reduced photo in a cache while the
user tries crops. Invariant: the previews of all visitors take at most `MAX_PREVIEW_BYTES`.
"""

import hashlib
import io
import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter
from PIL.Image import Resampling

from svd_core.errors import InvalidImage, InvalidRequest
from svd_core.media.decoder_process import DECODER
from svd_core.media.image_decoding import FORMATS as FORMATS
from svd_core.media.image_decoding import MAX_BYTES as MAX_BYTES
from svd_core.media.image_decoding import MAX_RATIO as MAX_RATIO
from svd_core.media.image_decoding import MIN_SIDE as MIN_SIDE
from svd_core.media.image_decoding import check_bytes
from svd_core.messages import Message
from svd_core.params import Fit, Orientation, VideoParams

Size = tuple[int, int]
"""(width, height) in pixels."""

Pixels = npt.NDArray[np.uint8]
"""(height, width, 3), RGB."""

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of the upright photo; edges may fall between pixels."""

MAX_PREVIEW_PIXELS = 2**21
"""Pixels of a preview: 1773x1182 for a 3:2 photo, enough for a sharp frame of 1024x576."""

MAX_PREVIEW_BYTES = 2**26
"""Bytes of all previews together, as JPEG; one usually takes 200 to 500 kB."""

PREVIEW_QUALITY = 95


@dataclass(frozen=True)
class FramedPhoto:
    """Photo at a size of the model.

    `image`: RGB, exactly `size`. `box`: the part of the upright photo that it shows.
    """

    image: Image.Image
    size: Size
    fit: Fit
    box: Box


def open_photo(data: bytes, *, patient: bool = False) -> Image.Image:
    """The picture in the file `data`: RGB, 8 bit, sRGB, upright, the first frame of an animation.

    The decoder process does the work. Raises `InvalidImage` for unusable files, and `ServerBusy` if
    too many pictures are waiting. An accepted job is `patient` and waits.
    """
    check_bytes(data)
    return DECODER.decode(data, patient=patient).image


def frame_photo(photo: Image.Image, sizes: Sequence[Size], params: VideoParams) -> FramedPhoto:
    """`photo` at the one of `sizes` that `size_for` chooses. Raises what it raises.

    `params.fit` "crop" fills the size and cuts off the rest; `focus_x` and `focus_y` choose what
    stays. "pad" keeps the whole photo, in front of a blurred copy of itself.
    """
    size = size_for(photo.size, sizes, params.orientation)
    box = shown_box(photo.size, size, params)
    if params.fit == "pad":
        return FramedPhoto(_padded(photo, size), size, "pad", box)
    return FramedPhoto(photo.resize(size, Resampling.LANCZOS, box=box), size, "crop", box)


def to_png(pixels: Pixels) -> bytes:
    """One frame of a video as a lossless picture file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def size_for(photo: Size, sizes: Sequence[Size], orientation: Orientation) -> Size:
    """The one of `sizes` nearest in shape, among those of `orientation`; the first one of a tie.

    Raises `InvalidRequest` if the checkpoint has none of that orientation.
    """
    candidates = [size for size in sizes if orientation in ("auto", orientation_of(size))]
    if not candidates:
        known = dict.fromkeys(map(orientation_of, sizes))
        raise InvalidRequest(
            "orientation_unavailable",
            field="orientation",
            shape=Message(f"shape_{orientation}"),
            shapes=[Message(f"shape_{each}") for each in known],
        )
    return nearest_size(photo, candidates)


def orientation_of(size: Size) -> Orientation:
    width, height = size
    return "landscape" if width > height else "portrait" if width < height else "square"


def nearest_size(photo: Size, sizes: Sequence[Size]) -> Size:
    """The one of `sizes` nearest in aspect ratio, by the logarithm: twice is as far as half."""

    def distance(size: Size) -> float:
        # 4:3, what most cameras take, lies exactly between 16:9 and 1:1; rounding keeps it a tie.
        return round(abs(math.log(size[0] * photo[1] / (size[1] * photo[0]))), 2)

    return min(sizes, key=distance)


def shown_box(photo: Size, size: Size, params: VideoParams) -> Box:
    """The part of a photo that a frame of `size` shows."""
    if params.fit == "pad":
        return 0.0, 0.0, float(photo[0]), float(photo[1])
    return crop_box(photo, size, params.focus_x, params.focus_y)


def crop_box(photo: Size, size: Size, focus_x: float = 0.5, focus_y: float = 0.5) -> Box:
    """The largest part of a photo with the shape of `size`.

    Focus: 0..1, left to right and top to bottom.
    """
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
    # Blurred enough to give colour and light, but no second object to animate.
    back = back.filter(ImageFilter.GaussianBlur(min(size) / 12))
    back.paste(front, ((size[0] - fitted[0]) // 2, (size[1] - fitted[1]) // 2))
    return back


class PreviewCache:
    """Least recently used cache of reduced photos, as JPEG, by the hash of their files."""

    def __init__(self, max_bytes: int = MAX_PREVIEW_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._previews: OrderedDict[str, tuple[bytes, Size]] = OrderedDict()
        self._bytes = 0

    def get(self, name: str) -> tuple[bytes, Size] | None:
        """The reduced photo and the size of the original; None if it is not cached."""
        with self._lock:
            if name in self._previews:
                self._previews.move_to_end(name)
            return self._previews.get(name)

    def put(self, name: str, reduced: bytes, size: Size) -> None:
        """Add a photo, and remove the least recently used ones beyond the limit."""
        with self._lock:
            if name not in self._previews:
                self._bytes += len(reduced)
            self._previews[name] = reduced, size
            while self._bytes > self._max_bytes and len(self._previews) > 1:
                _, (oldest, _) = self._previews.popitem(last=False)
                self._bytes -= len(oldest)


PREVIEW_CACHE = PreviewCache()
"""The cache of this process: the limit holds for all visitors together."""


class CachedPhoto:
    """Decoded photo for previews: `frame` shows the result of `frame_photo` for the original.

    The photo is decoded once and cached at a reduced size; this object holds only its name there.
    `size`: of the original. Raises `InvalidImage`, `ServerBusy`.
    """

    def __init__(self, photo: bytes, cache: PreviewCache = PREVIEW_CACHE) -> None:
        check_bytes(photo)
        self._name = hashlib.sha256(photo).hexdigest()
        self._cache = cache
        preview = cache.get(self._name)
        if preview is None:
            reduced, size = DECODER.decode(photo, MAX_PREVIEW_PIXELS)
            file = io.BytesIO()
            reduced.save(file, "JPEG", quality=PREVIEW_QUALITY, subsampling=0)
            preview = file.getvalue(), size
            cache.put(self._name, *preview)
        self.size = preview[1]

    @property
    def preview_image(self) -> Image.Image:
        """The reduced photo. Raises `InvalidImage` if it is no longer cached."""
        preview = self._cache.get(self._name)
        if preview is None:
            raise InvalidImage("image_preview_expired")
        return Image.open(io.BytesIO(preview[0])).convert("RGB")

    def frame(self, sizes: Sequence[Size], params: VideoParams) -> FramedPhoto:
        """The reduced photo, framed; size and box are those of the original.

        Raises what `frame_photo` raises.
        """
        size = size_for(self.size, sizes, params.orientation)
        framed = frame_photo(self.preview_image, [size], params)
        return FramedPhoto(framed.image, size, framed.fit, shown_box(self.size, size, params))
