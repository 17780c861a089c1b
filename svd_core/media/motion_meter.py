"""Motion meter: how much moves in a clip, measured by optical flow between its frames."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from svd_core.types import Frames

Level = Literal["still", "gentle", "lively", "unstable"]

Pictures = NDArray[np.float32]
"""Brightness 0..255, (number, height, width)."""

Flow = NDArray[np.float32]
"""How far each pixel goes down and to the right, in pixels: (2, number, height, width)."""

WIDTH = 96
"""Pixels to which the longer side is reduced: grain and compression average out."""

SCALES, ROUNDS = 3, 2
"""Sizes at which flow is looked for, each half of the one before, and how often at each."""

WINDOW_SIDE = 7
"""Pixels on a side within which everything is taken to move alike."""

GRAIN_PERCENT = 1.0
"""Steps in brightness from pixel to pixel that count as nothing, squared."""

STILL, LIVELY = 0.1, 0.7
"""In percent of the longer side, see `Motion.flow`. A photo at rest under visible grain comes to
0.1; svd-nano to 0.16 at bucket 32, 0.5 at 127, 0.9 at 223 and 7 fps."""

UNSTABLE = 0.2
"""Of the contrast, the change that no motion explains. A pan by 7 % a frame leaves 0.03 to 0.09,
svd-nano 0.02 to 0.04, blobs that come and go 0.5, noise 0.7."""

FLICKER = 2.0
"""Levels by which the brightness of the whole picture swings: from there on it is seen."""


@dataclass(frozen=True)
class Motion:
    """`flow`: how far things move from a frame to the next, in percent of the longer side; the mean
    over the quarter of the picture that moves most, and over the clip."""

    level: Level
    flow: float


def measure_motion(frames: Frames) -> Motion:
    """`frames` of shape (num_frames, height, width, 3), at least two."""
    pictures = np.stack([_reduce(frame) for frame in frames])
    brightness = pictures.mean(axis=(1, 2))
    pictures -= brightness[:, None, None]  # else light that flickers would be taken for motion
    before, after = pictures[:-1], pictures[1:]
    flow = flow_between(before, after)
    lengths = np.sort(np.hypot(*flow).reshape(len(before), -1))
    quarter = lengths.shape[1] // 4
    moved = 100 * float(lengths[:, -quarter:].mean()) / max(pictures.shape)
    # A light that fades has no second difference; one that goes up and down has four times its own.
    flicker = float(np.abs(np.diff(brightness, 2)).mean()) / 4 if len(brightness) > 2 else 0.0
    if flicker > FLICKER or _unexplained(before, after, flow) > UNSTABLE:
        return Motion("unstable", moved)
    return Motion("still" if moved < STILL else "gentle" if moved < LIVELY else "lively", moved)


def flow_between(before: Pictures, after: Pictures) -> Flow:
    """By the method of Lucas and Kanade, beginning with what moves all of the picture."""
    scales = [(before, after)]
    for _ in range(SCALES - 1):
        scales.append((_halve(scales[-1][0]), _halve(scales[-1][1])))
    smallest = scales[-1]
    flow = (
        np.zeros((2, *smallest[0].shape), np.float32) + _estimate_shift(*smallest)[..., None, None]
    )
    for one, other in reversed(scales):
        if flow.shape[1:] != one.shape:
            flow = 2 * flow.repeat(2, axis=-1).repeat(2, axis=-2)
        for _ in range(ROUNDS):
            flow = _box_filter(flow + _improvement(one, _warp(other, flow)))
    return flow


def _reduce(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """With sides that can be halved again and again."""
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
    """By how many pixels the whole picture has moved, (2, number): where the phases agree."""
    height, width = before.shape[1:]
    window = np.outer(np.hanning(height), np.hanning(width))
    one, other = np.fft.rfft2(before * window), np.fft.rfft2(after * window)
    product = one.conj() * other
    strength = np.abs(product)
    floor = 1e-3 * strength.max(axis=(1, 2), keepdims=True) + 1e-6
    found = np.fft.irfft2(product / (strength + floor), (height, width))
    down, right = np.divmod(found.reshape(len(found), -1).argmax(axis=1), width)
    down = (down + height // 2) % height - height // 2
    right = (right + width // 2) % width - width // 2
    return np.stack([down, right]).astype(np.float32)


def _warp(pictures: Pictures, flow: Flow) -> Pictures:
    """At each pixel what lies where it went, between pixels too."""
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
    found: Pictures = (upper * (1 - down) + lower * down).astype(np.float32)
    return found


def _improvement(before: Pictures, after: Pictures) -> Flow:
    """The small flow that explains best, in the window around each pixel, how they differ."""
    down, right = np.gradient((before + after) / 2, axis=(1, 2))
    change = before - after
    dd, rr, dr, dc, rc = _box_filter(
        np.stack([down * down, right * right, down * right, down * change, right * change])
    )
    dd, rr = dd + GRAIN_PERCENT, rr + GRAIN_PERCENT
    found: Flow = np.stack([rr * dc - dr * rc, dd * rc - dr * dc]) / (dd * rr - dr * dr)
    return np.clip(found, -2, 2)


def _box_filter(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean over the window around each pixel, of the last two axes."""
    for axis in (-1, -2):
        size = pictures.shape[axis]
        padding = [(0, 0)] * pictures.ndim
        padding[axis] = (WINDOW_SIDE // 2 + 1, WINDOW_SIDE // 2)
        sums = np.pad(pictures, padding, mode="edge").cumsum(axis=axis, dtype=np.float32)
        ends, starts = range(WINDOW_SIDE, WINDOW_SIDE + size), range(size)
        pictures = (sums.take(ends, axis) - sums.take(starts, axis)) / WINDOW_SIDE
    return pictures


def _unexplained(before: Pictures, after: Pictures, flow: Flow) -> float:
    """How much of the change no motion explains, over the picture's contrast."""
    height, width = before.shape[1:]
    y, x = np.mgrid[0:height, 0:width][:, None] + flow
    inside = (y >= 0) & (y <= height - 1) & (x >= 0) & (x <= width - 1)
    left = np.abs(before - _warp(after, flow))
    return float(left[inside].mean()) / (float(before.std()) + 2) if inside.any() else 1.0
