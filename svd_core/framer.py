"""A photo whose framing is being tried out: shown again and again, faster than it can be read."""

from collections.abc import Sequence

from svd_core.image import Framed, Size, frame_photo, open_photo, shown_box, size_for
from svd_core.params import VideoParams

SIDE = 1024
"""Pixels of the shorter side that are kept at least, as far as there are so many: a frame of
1024x576 is cut from them without loss that could be seen."""


class Framer:
    """`frame` shows what the core's `frame_photo` makes of the same photo and settings.

    The photo is read once and kept reduced: 9 MB of 36 for the 12 megapixels of a phone. `small`:
    the photo as it is kept; `size`: what it had before. Raises `InvalidImage`.
    """

    def __init__(self, photo: bytes) -> None:
        whole = open_photo(photo)
        self.size = whole.size
        self.small = whole.reduce(max(1, min(whole.size) // SIDE))

    def frame(self, sizes: Sequence[Size], params: VideoParams) -> Framed:
        """The picture is that of a reduced photo; size and box are those of the photo itself.

        Raises what `frame_photo` raises.
        """
        size = size_for(self.size, sizes, params.orientation)
        framed = frame_photo(self.small, [size], params)
        return Framed(framed.image, size, framed.fit, shown_box(self.size, size, params))
