"""Cost of exports, previews and framing: `python -m svd_core.benchmarks extras`. Ends in JSON.

Each figure is the median of `RUNS`, after one run to warm up. "framing" is a photo of 12 megapixels
framed again, as after each move of a slider; "preview" all latents of a clip as a moving picture.
"""

import io
import tempfile
import timeit
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from svd_core.benchmarks.server_process import example_photo
from svd_core.benchmarks.targets import print_json
from svd_core.engine.preview import encode_webp
from svd_core.extend import match_colours
from svd_core.media.export import SUFFIX, Export, export
from svd_core.media.image import CachedPhoto
from svd_core.media.motion_meter import measure_motion
from svd_core.media.video import read_lossless, write_lossless
from svd_core.params import VideoParams
from svd_core.types import Frames

RUNS = 5
SIZE, NUM_FRAMES = (1024, 576), 25


def main(_: Sequence[str] = ()) -> int:
    frames = clip()
    with tempfile.TemporaryDirectory() as folder:
        figures = _exports(frames, Path(folder)) | _others(frames)
    print(f"{NUM_FRAMES} frames of {SIZE[0]}x{SIZE[1]}, median of {RUNS}")
    for name, taken in figures.items():
        print(f"{name:32} {taken:8.3f} s")
    print_json({"frames": NUM_FRAMES, "size": SIZE, **figures})
    return 0


def clip() -> Frames:
    """Clip of an example photo under a moving camera, with grain at full resolution."""
    width, height = SIZE
    with Image.open(example_photo()) as photo:
        large = photo.convert("RGB").resize((width + 200, height + 200))
    grain = np.random.default_rng(0)
    boxes = [(4 * t, 2 * t, 4 * t + width, 2 * t + height) for t in range(NUM_FRAMES)]
    frames = np.stack([np.asarray(large.crop(box), np.float32) for box in boxes])
    noise = grain.normal(0, 1, frames.shape).astype(np.float32)
    return (frames + noise).clip(0, 255).round().astype(np.uint8)


def seconds(work: Callable[[], object]) -> float:
    """Median seconds of `work` after a warm-up."""
    return median(timeit.repeat(work, repeat=1 + RUNS, number=1)[1:])


def _exports(frames: Frames, folder: Path) -> dict[str, float]:
    """Seconds of each export from the frames on disk, and of storing the frames."""
    kept = folder / "kept.mkv"
    figures = {"keep the frames": seconds(lambda: write_lossless(frames, kept))}
    for options in (Export(format=format) for format in SUFFIX):
        figures[f"export {options.format}"] = seconds(partial(_export, kept, options))
    return figures


def _export(kept: Path, options: Export) -> None:
    export(read_lossless(kept), options, kept.with_suffix(options.suffix), "{}")


def _others(frames: Frames) -> dict[str, float]:
    width, height = SIZE
    file = io.BytesIO()
    Image.fromarray(frames[0]).resize((4000, 3000)).save(file, "JPEG")
    photo = file.getvalue()
    framer = CachedPhoto(photo)
    cells = np.ascontiguousarray(frames[:, ::8, ::8])
    return {
        "open a photo of 12 megapixels": seconds(lambda: CachedPhoto(photo)),
        "framing": seconds(lambda: framer.frame([SIZE], VideoParams(focus_x=0.3))),
        "framing with blurred borders": seconds(
            lambda: framer.frame([(height, width)], VideoParams(fit="pad"))
        ),
        "motion meter": seconds(lambda: measure_motion(frames)),
        "preview": seconds(lambda: encode_webp(cells, 7)),
        "match colours of a clip": seconds(lambda: match_colours(frames, frames[0])),
    }
