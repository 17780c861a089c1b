"""Framing preview: a reduced photo, cached while its crop is tried out.

Invariant: the previews of all visitors together take at most `MAX_KEPT_BYTES`, whatever is sent.
"""

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Sequence

from PIL import Image

from svd_core.errors import InvalidImage
from svd_core.media.decoder_process import DECODER
from svd_core.media.image import FramedPhoto, Size, frame_photo, shown_box, size_for
from svd_core.media.image_decoding import check_bytes
from svd_core.params import VideoParams

MAX_PREVIEW_PIXELS = 2**21
"""Of a photo with the sides 3:2 these are 1773x1182, from which a frame of 1024x576 is cut without
loss that could be seen."""

MAX_KEPT_BYTES = 2**26
"""Of all previews together, as JPEG; a usual one takes 200 to 500 kB."""

PREVIEW_QUALITY = 95


class PreviewCache:
    """Least recently used cache of reduced photos, as JPEG, by the hash of their files."""

    def __init__(self, most_bytes: int = MAX_KEPT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[bytes, Size]] = OrderedDict()
        self._bytes = 0

    def get(self, name: str) -> tuple[bytes, Size] | None:
        """The reduced photo, and the size of the whole one."""
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
            return self._kept.get(name)

    def put(self, name: str, reduced: bytes, size: Size) -> None:
        with self._lock:
            if name not in self._kept:
                self._bytes += len(reduced)
            self._kept[name] = reduced, size
            while self._bytes > self._most_bytes and len(self._kept) > 1:
                _, (oldest, _) = self._kept.popitem(last=False)
                self._bytes -= len(oldest)


CACHE = PreviewCache()
"""The one of this program: the limit holds for all visitors together."""


class CachedPhoto:
    """`frame` shows what the core's `frame_photo` makes of the same photo and settings.

    The photo is decoded once and kept reduced in the cache; a framer itself holds its name only.
    `size`: that of the whole photo. Raises `InvalidImage`, `ServerBusy`.
    """

    def __init__(self, photo: bytes, cache: PreviewCache = CACHE) -> None:
        check_bytes(photo)
        self._name = hashlib.sha256(photo).hexdigest()
        self._cache = cache
        kept = cache.get(self._name)
        if kept is None:
            reduced, size = DECODER.decode(photo, MAX_PREVIEW_PIXELS)
            file = io.BytesIO()
            reduced.save(file, "JPEG", quality=PREVIEW_QUALITY, subsampling=0)
            kept = file.getvalue(), size
            cache.put(self._name, *kept)
        self.size = kept[1]

    @property
    def preview_image(self) -> Image.Image:
        """The reduced photo. Raises `InvalidImage` if others have taken its place in the cache."""
        kept = self._cache.get(self._name)
        if kept is None:
            raise InvalidImage("The preview of this photo is no longer kept; choose it again.")
        return Image.open(io.BytesIO(kept[0])).convert("RGB")

    def frame(self, sizes: Sequence[Size], params: VideoParams) -> FramedPhoto:
        """The picture is that of a reduced photo; size and box are those of the photo itself.

        Raises what `frame_photo` raises.
        """
        size = size_for(self.size, sizes, params.orientation)
        framed = frame_photo(self.preview_image, [size], params)
        return FramedPhoto(framed.image, size, framed.fit, shown_box(self.size, size, params))
