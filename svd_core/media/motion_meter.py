"""Motion meter: how much moves in a clip, measured by optical flow between its frames."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from svd_core.types import Frames

Level = Literal["still", "gentle", "lively", "unstable"]

Pictures = NDArray[np.float32]
"""Brightness 0..255 of frames, (number, height, width)."""

Flow = NDArray[np.float32]
"""Displacement of each pixel down and to the right, in pixels: (2, number, height, width)."""

WIDTH = 96
"""Longer side in pixels after reduction, which removes grain and compression noise."""

SCALES, ROUNDS = 3, 2
"""Number of sizes, each half of the previous one, and of flow refinements at each."""

WINDOW_SIDE = 7
"""Side in pixels of the window in which all pixels are assumed to move alike."""

GRAIN_PERCENT = 1.0
"""Squared steps in brightness from pixel to pixel that count as noise."""

STILL, LIVELY = 0.1, 0.7
"""Thresholds in percent of the longer side, see `Motion.flow`. A still photo with visible grain has
0.1; svd-nano at 7 fps has 0.16 at bucket 32, 0.5 at 127 and 0.9 at 223."""

UNSTABLE = 0.2
"""Threshold of the change that no motion explains, as a share of the contrast: 0.03 to 0.09 in a
pan by 7 % a frame, 0.02 to 0.04 for svd-nano, 0.5 for blobs that come and go, 0.7 for noise."""

FLICKER = 2.0
"""Threshold of visible flicker: the swing in brightness of the whole picture."""


@dataclass(frozen=True)
class Motion:
    """Measured motion of a clip.

    `flow`: displacement from a frame to the next, in percent of the longer side. It is the mean
    over the quarter of the picture that moves most, and over the clip.
    """

    level: Level
    flow: float


def measure_motion(frames: Frames) -> Motion:
    """Measure the motion in `frames`, (num_frames, height, width, 3), at least two."""
    pictures = np.stack([_reduce(frame) for frame in frames])
    brightness = pictures.mean(axis=(1, 2))
    pictures -= brightness[:, None, None]  # else flicker would count as motion
    before, after = pictures[:-1], pictures[1:]
    flow = flow_between(before, after)
    lengths = np.sort(np.hypot(*flow).reshape(len(before), -1))
    quarter = lengths.shape[1] // 4
    moved = 100 * float(lengths[:, -quarter:].mean()) / max(pictures.shape)
    # The second difference is zero for a light that fades, and four times the swing for a flicker.
    flicker = float(np.abs(np.diff(brightness, 2)).mean()) / 4 if len(brightness) > 2 else 0.0
    if flicker > FLICKER or _unexplained(before, after, flow) > UNSTABLE:
        return Motion("unstable", moved)
    return Motion("still" if moved < STILL else "gentle" if moved < LIVELY else "lively", moved)


def flow_between(before: Pictures, after: Pictures) -> Flow:
    """Optical flow by the pyramidal Lucas-Kanade method, starting from the global shift."""
    scales = [(before, after)]
    for _ in range(SCALES - 1):
        scales.append((_halve(scales[-1][0]), _halve(scales[-1][1])))
    shift = _estimate_shift(*scales[-1])
    flow = np.broadcast_to(shift[..., None, None], (2, *scales[-1][0].shape))
    for one, other in reversed(scales):
        if flow.shape[1:] != one.shape:
            flow = 2 * flow.repeat(2, axis=-1).repeat(2, axis=-2)
        for _ in range(ROUNDS):
            flow = _box_filter(flow + _improvement(one, _warp(other, flow)))
    return flow


def _reduce(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Brightness of a frame, reduced to sides that can be halved for each scale."""
    picture = Image.fromarray(frame)
    scale, unit = WIDTH / max(picture.size), 2 ** (SCALES - 1)
    width, height = (max(4, round(side * scale / unit)) * unit for side in picture.size)
    small = picture.resize((width, height), Image.Resampling.BOX).convert("L")
    return np.asarray(small, np.float32)


def _halve(pictures: Pictures) -> Pictures:
    number, height, width = pictures.shape
    halves: Pictures = pictures.reshape(number, height // 2, 2, width // 2, 2).mean(axis=(2, 4))
    return halves


def _estimate_shift(before: Pictures, after: Pictures) -> NDArray[np.float32]:
    """Global shift in pixels by phase correlation, (2, number)."""
    height, width = before.shape[1:]
    window = np.outer(np.hanning(height), np.hanning(width))
    one, other = np.fft.rfft2(before * window), np.fft.rfft2(after * window)
    product = one.conj() * other
    strength = np.abs(product)
    floor = 1e-3 * strength.max(axis=(1, 2), keepdims=True) + 1e-6
    correlation = np.fft.irfft2(product / (strength + floor), (height, width))
    peaks = correlation.reshape(len(correlation), -1).argmax(axis=1)
    down, right = np.divmod(peaks, width)
    down = (down + height // 2) % height - height // 2
    right = (right + width // 2) % width - width // 2
    return np.stack([down, right]).astype(np.float32)


def _warp(pictures: Pictures, flow: Flow) -> Pictures:
    """Pictures sampled bilinearly at the place to which the flow takes each pixel."""
    number, height, width = pictures.shape
    index, y, x = np.ogrid[0:number, 0:height, 0:width]
    down = (y + flow[0]).clip(0, height - 1.001)
    right = (x + flow[1]).clip(0, width - 1.001)
    top, left = down.astype(np.int32), right.astype(np.int32)
    down, right = down - top, right - left
    place = (index * height + top) * width + left
    flat = pictures.ravel()
    upper = flat[place] * (1 - right) + flat[place + 1] * right
    lower = flat[place + width] * (1 - right) + flat[place + width + 1] * right
    warped: Pictures = (upper * (1 - down) + lower * down).astype(np.float32)
    return warped


def _improvement(before: Pictures, after: Pictures) -> Flow:
    """Small flow that best explains the difference in the window around each pixel."""
    down, right = np.gradient((before + after) / 2, axis=(1, 2))
    change = before - after
    dd, rr, dr, dc, rc = _box_filter(
        np.stack([down * down, right * right, down * right, down * change, right * change])
    )
    dd, rr = dd + GRAIN_PERCENT, rr + GRAIN_PERCENT
    flow: Flow = np.stack([rr * dc - dr * rc, dd * rc - dr * dc]) / (dd * rr - dr * dr)
    return np.clip(flow, -2, 2)


def _box_filter(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over the window around each pixel, along the last two axes."""
    for axis in (-1, -2):
        size = pictures.shape[axis]
        padding = [(0, 0)] * pictures.ndim
        padding[axis] = (WINDOW_SIDE // 2 + 1, WINDOW_SIDE // 2)
        sums = np.pad(pictures, padding, mode="edge").cumsum(axis=axis, dtype=np.float32)
        ends, starts = range(WINDOW_SIDE, WINDOW_SIDE + size), range(size)
        pictures = (sums.take(ends, axis) - sums.take(starts, axis)) / WINDOW_SIDE
    return pictures


def _unexplained(before: Pictures, after: Pictures, flow: Flow) -> float:
    """Change that the flow does not explain, as a share of the contrast."""
    height, width = before.shape[1:]
    y, x = np.mgrid[0:height, 0:width][:, None] + flow
    inside = (y >= 0) & (y <= height - 1) & (x >= 0) & (x <= width - 1)
    left = np.abs(before - _warp(after, flow))
    return float(left[inside].mean()) / (float(before.std()) + 2) if inside.any() else 1.0
