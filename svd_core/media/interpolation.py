"""Motion-compensated frame interpolation by ffmpeg's `minterpolate`.

Invariant: every `factor`-th frame of the result is an original frame, bit for bit. It does not know
files, formats or recipes.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from svd_core.errors import GenerationFailed
from svd_core.media.ffmpeg import encode
from svd_core.media.video import pixels, raw
from svd_core.types import Frames

FRAMES_PER_RUN = 6
"""Intervals between original frames for one run of ffmpeg.

The filter uses one core, so several runs share the work. The number is constant, since the motion
search begins again in each piece, and all machines must get the same frames.
"""

MAX_RUNS = 4
"""Runs of ffmpeg at a time, as many as x264 has threads. Each takes 0.3 GB at 1024x576."""

MARGIN = 16
"""Pixels by which the edges are repeated outwards, for blocks that cross the border.

They gain 0.6 dB in `svd_core.benchmarks interpolation`, and make tiny frames large enough.
"""

BLOCK_SIDE = 16
"""Side in pixels of the search blocks; the frame's sides become multiples of it."""

# Chosen by `svd_core.benchmarks interpolation` on the eight example clips. Bidirectional search:
# 9.9 dB above blending on average, 8.5 at least, and 0.1 % of the blocks much worse than blended
# ones. The filter's default, bilateral search: 10.0 dB, 7.7 dB and 0.5 %. Other searches and
# smaller blocks are slower or worse. Scene detection is off, since a clip is one scene. Colours
# keep their full resolution, or in-between frames would look softer than their neighbours.
SEARCH = "mi_mode=mci:mc_mode=obmc:me_mode=bidir:me=epzs:mb_size=16:scd=none"
EXACT = "flags=accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
FILTERS = (
    f"scale=out_color_matrix=bt709:out_range=tv:{EXACT},format=yuv444p,"
    f"minterpolate=fps={{factor}}:{SEARCH},"
    f"scale=in_color_matrix=bt709:in_range=tv:{EXACT},format=rgb24"
)


def interpolate(
    frames: Frames, factor: int, on_piece: Callable[[int, int], None] | None = None
) -> Frames:
    """Frames for `factor` times the rate: (n, h, w, 3) becomes ((n - 1) * factor + 1, h, w, 3).

    `on_piece(done, total)` is called during the work; an exception from it stops the work. 25
    frames of 1024x576 take 4 s for factor 2 and 10 s for factor 4 on one core. Raises
    `GenerationFailed`.
    """
    intervals = len(frames) - 1
    if factor == 1 or intervals < 1:
        return frames
    result = np.empty((intervals * factor + 1, *frames.shape[1:]), np.uint8)
    starts = range(0, intervals, FRAMES_PER_RUN)
    pool = ThreadPoolExecutor(min(len(starts), os.cpu_count() or 1, MAX_RUNS))
    try:
        runs = [pool.submit(_fill, result, frames, factor, start) for start in starts]
        for done, run in enumerate(runs):
            if on_piece is not None:
                on_piece(done, len(runs))
            run.result()
    finally:
        pool.shutdown(cancel_futures=True)
    result[::factor] = frames
    return result


def _fill(result: Frames, frames: Frames, factor: int, start: int) -> None:
    """Fill the piece of `result` that begins at the original frame number `start`.

    For an interval the filter needs a frame before it and one after it. It makes up the
    frame before the first one; the last one is passed twice.
    """
    end = min(start + FRAMES_PER_RUN, len(frames) - 1)
    first = max(start - 1, 0)
    originals = frames[first : end + 2]
    missing = end + 2 - first - len(originals)
    height, width = frames.shape[1:3]
    originals = np.pad(originals, ((0, missing), _margins(height), _margins(width), (0, 0)), "edge")
    stream = encode(
        *raw(originals, 1), "-vf", FILTERS.format(factor=factor), "-f", "rawvideo", "pipe:",
        data=pixels(originals),
    )  # fmt: skip
    count = (end - first) * factor + 1
    if len(stream) != count * originals[0].size:
        raise GenerationFailed("interpolation_failed")
    made = np.frombuffer(stream, np.uint8).reshape(count, *originals.shape[1:])
    made = made[(start - first) * factor :, MARGIN : MARGIN + height, MARGIN : MARGIN + width]
    result[start * factor : end * factor + 1] = made


def _margins(side: int) -> tuple[int, int]:
    """Pixels to add before and after a side of the frame."""
    return MARGIN, MARGIN + -side % BLOCK_SIDE
