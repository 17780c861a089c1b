"""Evaluation metrics of svd-nano, and the target of each.

The standard clips are those of noise 0.02 and 7 fps, at every bucket and with every seed. Pixels
are sRGB values 0..255 as shown; a PSNR is taken over all three channels and never above 60 dB.

`vae_psnr`: the photo, cropped around its middle and reduced to the checkpoint's first size
(512x288), against itself encoded (the mode of the distribution) and decoded as a single frame.
PSNR in dB, mean over photos.

`first_frame_psnr`: the first frame against the framed photo that the model was given, whole
picture. PSNR in dB, mean over standard clips.

`sharpness`: gradient energy of a frame over that of the framed photo. Gradient energy is the mean
square of the steps in luma (BT.601) from each pixel to its right and its lower neighbour, over the
whole picture. At most 1 for each frame: grain and ringing are not sharpness, and must not offset
blur in other frames. Mean over the frames of all standard clips.

`sharpness_min`: the same of the least sharp frame of all standard clips.

`consistency`: each frame against the next one warped back by the flow between them (bilinear), over
the pixels whose source is inside the next frame. The PSNR of the error of all pairs of a clip
together, so that a single jump counts; in dB, mean over standard clips.

Flow is in pixels per frame, from each frame to the next, by OpenCV's dense inverse search (preset
medium) on luma. Flow is trusted if the backward flow returns to its start within 0.1 pixels plus a
tenth of the flow; elsewhere it counts as zero. The speed of a clip is the mean Euclidean length of
the trusted flow over all pixels and pairs. A speed below 0.1 pixels counts as 0.1: it is invisible,
and may be flicker.

`motion_order`: share of pairs of photo and seed in which the speed grows from bucket 32 to 127 and
from 127 to 223.

`motion_ratio`: mean speed at bucket 223 over mean speed at bucket 32, all photos and seeds.

`noise_order`: share of pairs of photo and seed in which likeness to the photo, the PSNR of the
first frame against it, falls from noise_aug_strength 0.02 to 0.2 and from 0.2 to 0.8. One seed, at
bucket 127.

`fps_order`: share of pairs of photo and seed in which the speed at 25 fps is below that at 7 fps.
One seed, at bucket 127.

`seed_variety`: how differently the first two seeds move a photo. Mean length of the difference of
their trusted flows, each averaged over cells of 8x8 pixels, over the mean length of both, no less
than 0.1 pixels; mean over photos and buckets. 0 for still pictures and for one seed twice, 1.4 for
directions at right angles, 2 for opposite ones.

`seconds_per_clip`: median time from the framed photo to the frames, over all clips but the first.

`peak_memory_mb`: peak memory of the process up to the last clip, these measurements included, in
10^6 bytes; on CUDA, that of the GPU.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np

from svd_core.params import VideoParams
from svd_core.training.clip_metrics import ClipMetrics

BUCKETS = (32, 127, 223)
NOISES = (0.02, 0.2, 0.8)
FPS = (7, 25)

LEAST_SPEED = 0.1

TARGETS: Mapping[str, float | None] = {
    "vae_psnr": 30.0,
    "first_frame_psnr": 26.0,
    "sharpness": 0.75,
    "sharpness_min": 0.6,
    "consistency": 26.0,
    "motion_order": 0.95,
    "motion_ratio": 3.0,
    "noise_order": 0.95,
    "fps_order": 0.9,
    "seed_variety": 0.5,
    "seconds_per_clip": None,
    "peak_memory_mb": None,
}
"""Least value of every figure; None without a target."""

Figures = dict[str, float | None]
"""Values by name; None for a value that was not measured."""

Readings = Mapping[tuple[str, VideoParams], ClipMetrics]
"""Metrics of each clip, by the name of its photo and its parameters."""


def settings(seeds: tuple[int, ...]) -> list[VideoParams]:
    """Parameters of the clips of each photo. Noise and fps vary with one seed, at bucket 127."""
    first = _standard(seeds[0], BUCKETS[1])
    return [
        *(_standard(seed, bucket) for seed in seeds for bucket in BUCKETS),
        *(replace(first, noise_aug_strength=noise) for noise in NOISES[1:]),
        *(replace(first, fps=fps) for fps in FPS[1:]),
    ]


def compute_metrics(readings: Readings) -> Figures:
    """Compute all figures that follow from clips alone; the others are None."""
    standard = [reading for (_, params), reading in readings.items() if _is_standard(params)]
    sharpness = [value for reading in standard for value in reading.sharpness]
    by_bucket = _variations(readings, _speed, "motion_bucket_id", BUCKETS)
    by_noise = _variations(readings, _likeness, "noise_aug_strength", NOISES)
    by_fps = _variations(readings, _speed, "fps", FPS)
    slow, _, fast = zip(*by_bucket, strict=True)
    figures: Figures = {
        "first_frame_psnr": fmean(map(_likeness, standard)),
        "sharpness": fmean(sharpness),
        "sharpness_min": min(sharpness),
        "consistency": fmean(reading.consistency for reading in standard),
        "motion_order": _share(a < b < c for a, b, c in by_bucket),
        "motion_ratio": fmean(fast) / fmean(slow),
        "noise_order": _share(a > b > c for a, b, c in by_noise),
        "fps_order": _share(a > b for a, b in by_fps),
        "seed_variety": _seed_variety(readings),
    }
    return dict.fromkeys(TARGETS) | figures


def missed_targets(figures: Figures) -> list[str]:
    """Names of the measured figures below their target."""
    return [name for name in TARGETS if is_met(name, figures[name]) is False]


def is_met(name: str, value: float | None) -> bool | None:
    """Whether a figure reaches its target; None without a target or a value."""
    target = TARGETS[name]
    return None if target is None or value is None else value >= target


def _standard(seed: int, bucket: int) -> VideoParams:
    return VideoParams(seed=seed, motion_bucket_id=bucket, noise_aug_strength=NOISES[0], fps=FPS[0])


def _is_standard(params: VideoParams) -> bool:
    return params.noise_aug_strength == NOISES[0] and params.fps == FPS[0]


def _variations(
    readings: Readings,
    figure: Callable[[ClipMetrics], float],
    parameter: str,
    values: tuple[float, ...],
) -> list[list[float]]:
    """`figure` by the values of `parameter`, for every pair of photo and seed with all clips."""
    rows = []
    for photo, params in readings:
        if _is_standard(params) and params.motion_bucket_id == BUCKETS[1]:
            changes: list[dict[str, Any]] = [{parameter: value} for value in values]
            clips = [(photo, replace(params, **change)) for change in changes]
            if all(clip in readings for clip in clips):
                rows.append([figure(readings[clip]) for clip in clips])
    return rows


def _speed(reading: ClipMetrics) -> float:
    return max(LEAST_SPEED, reading.speed)


def _likeness(reading: ClipMetrics) -> float:
    return reading.first_frame_psnr


def _share(conditions: Iterator[bool]) -> float | None:
    values = [float(holds) for holds in conditions]
    return fmean(values) if values else None


def _seed_variety(readings: Readings) -> float | None:
    seeds = sorted({params.seed for _, params in readings})[:2]
    if len(seeds) < 2:
        return None
    pairs = [
        (reading.motion, readings[photo, replace(params, seed=seeds[1])].motion)
        for (photo, params), reading in readings.items()
        if params.seed == seeds[0] and _is_standard(params)
    ]
    return fmean(_difference(one, other) for one, other in pairs)


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    apart, a, b = (float(np.linalg.norm(f, axis=-1).mean()) for f in (one - other, one, other))
    return apart / max((a + b) / 2, LEAST_SPEED)


UNITS: Mapping[str, str] = {
    "vae_psnr": "dB",
    "first_frame_psnr": "dB",
    "consistency": "dB",
    "motion_order": "%",
    "noise_order": "%",
    "fps_order": "%",
    "seconds_per_clip": "s",
    "peak_memory_mb": "MB",
}
"""Units of the figures. Shares are shown in percent; the others are ratios."""

VERDICTS = {True: "met", False: "MISSED", None: ""}


def format_report(subjects: Mapping[str, Figures], photos: Mapping[str, int]) -> str:
    """Format the figures as a table.

    `subjects`: the evaluated model first. `photos`: their number for each subject.
    """
    first = next(iter(subjects.values()))
    rows = [("", "target", "", *subjects), ("photos", "", "", *(photos[name] for name in subjects))]
    for figure, target in TARGETS.items():
        label = f"{figure} ({UNITS[figure]})" if figure in UNITS else figure
        values = (_shown(figure, figures[figure]) for figures in subjects.values())
        verdict = VERDICTS[is_met(figure, first[figure])]
        rows.append((label, _shown(figure, target), verdict, *values))
    lines = [
        f"{label:22}{target:>12}  {verdict:6}" + "".join(f"{value:>12}" for value in values)
        for label, target, verdict, *values in rows
    ]
    return "\n".join([*lines, "", *(_verdict(name, figures) for name, figures in subjects.items())])


def _shown(figure: str, value: float | None) -> str:
    if value is None:
        return "-"
    if UNITS.get(figure) == "%":
        return f"{100 * value:.0f}"
    return f"{value:.0f}" if UNITS.get(figure) == "MB" else f"{value:.2f}"


def _verdict(name: str, figures: Figures) -> str:
    short = missed_targets(figures)
    return f"{name} misses {', '.join(short)}." if short else f"{name} meets every target."
