"""Export of finished frames in another format, rate or order, or with in-between frames."""

import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass as pydantic_dataclass

from svd_core.media.comment import RECIPE_NAME, USER_COMMENT
from svd_core.media.comment import read_comment as read_comment
from svd_core.media.containers import EXIF_IFD
from svd_core.media.ffmpeg import atomic_write, encode
from svd_core.media.image import to_png
from svd_core.media.interpolation import interpolate
from svd_core.media.video import write_mp4
from svd_core.params import (
    FACTORS,
    MAX_FPS,
    Interpolation,
    limit_interpolation,
    translate_errors,
)
from svd_core.types import Frames

Format = Literal["mp4", "gif", "webp", "png"]
Order = Literal["forward", "reverse", "ping-pong"]

MAX_LOOPS = 10

SUFFIX: Mapping[Format, str] = {"mp4": ".mp4", "gif": ".gif", "webp": ".webp", "png": ".zip"}

FORMAT_MAX_FPS: Mapping[Format, float] = {
    "mp4": MAX_FPS,
    "gif": 50,
    "webp": 100,
    "png": math.inf,
}
"""Highest playback rate in frames per second; pictures in a zip have none.

Browsers slow down frames that are shown for less than 20 ms in a GIF, or 10 ms in a WebP.
Interpolation is reduced to fit, and a GIF whose original frames are faster leaves some out.
"""


@pydantic_dataclass(frozen=True, kw_only=True)
class Export:
    """Options of an export. Raises `InvalidRequest` with the field's name.

    `format`: "png" is a zip with a picture for each frame. `fps`: playback rate without in-between
    frames; `rate` is that of the file. `order`: "ping-pong" plays forward and back without
    repeating the end frames. `loops`: an mp4 repeats its frames, since players ignore a count.
    """

    format: Format = "mp4"
    fps: int = Field(default=7, ge=1, le=MAX_FPS)
    order: Order = "forward"
    loops: int = Field(default=0, ge=0, le=MAX_LOOPS)
    interpolation: Interpolation = "off"

    @model_validator(mode="wrap")
    @classmethod
    def _translate_errors(cls, values: Any, validate: Callable[[Any], Any]) -> Any:
        return translate_errors(cls, values, validate)

    @property
    def suffix(self) -> str:
        return SUFFIX[self.format]

    @property
    def effective_interpolation(self) -> Interpolation:
        """`interpolation`, reduced to what the format can play."""
        return limit_interpolation(self.interpolation, self.fps, FORMAT_MAX_FPS[self.format])

    @property
    def rate(self) -> int:
        """Playback rate in frames per second, in-between frames included."""
        return self.fps * FACTORS[self.effective_interpolation]


def export(frames: Frames, options: Export, path: Path, comment: str) -> Path:
    """Write `frames` to `path` with `options`, and with `comment`, their recipe, inside.

    The write is atomic: on failure no file is left. Raises `StorageFull`, `GenerationFailed`.
    """
    frames = interpolate(frames, FACTORS[options.effective_interpolation])
    played = order_frames(frames, options.order)
    match options.format:
        case "mp4":
            return _write_mp4(played, options, path, comment)
        case "gif":
            return _write_gif(played, options, path, comment)
        case "webp":
            return _write_webp(played, options, path, comment)
        case "png":
            return _write_zip(played, path, comment)


def order_frames(frames: Frames, order: Order) -> Frames:
    if order == "forward":
        return frames
    if order == "reverse":
        return frames[::-1]
    return np.concatenate([frames, frames[-2:0:-1]])


def _write_mp4(frames: Frames, options: Export, path: Path, comment: str) -> Path:
    if options.loops <= 1:
        return write_mp4(frames, path, options.rate, comment)
    with atomic_write(path) as part:
        write_mp4(frames, part, options.rate, comment)
        with atomic_write(part) as again:
            # Copied, not encoded again: as fast for ten loops as for one, and the same picture.
            source = ("-stream_loop", str(options.loops - 1), "-i", str(part))
            encode(*source, "-c", "copy", "-movflags", "+faststart", "-f", "mp4", str(again))
    return path


def _write_gif(frames: Frames, options: Export, path: Path, comment: str) -> Path:
    """Write a GIF with one palette from a sixteenth of the pixels, and with error diffusion.

    25 frames of 1024x576 take 0.4 s of processor time. Averaged over 4x4 pixels, as the eye does,
    the colours have 44 to 47 dB. ffmpeg's palettegen and paletteuse took 3 to 8 s for 39 to 41 dB
    in files as large.
    """
    skip = math.ceil(options.rate / FORMAT_MAX_FPS["gif"])
    shown = frames[::skip]
    sample = np.ascontiguousarray(shown[:, ::4, ::4]).reshape(-1, -(-frames.shape[2] // 4), 3)
    palette = Image.fromarray(sample).quantize(256, Image.Quantize.FASTOCTREE)
    pictures = [Image.fromarray(frame).quantize(palette=palette) for frame in shown]
    # The file counts repetitions; without a count it plays once.
    more = {} if options.loops == 1 else {"loop": max(0, options.loops - 1)}
    rate = options.rate / skip
    return _write_pictures(
        pictures, path, format="GIF", comment=comment.encode(), optimize=False,
        duration=_durations(len(pictures), rate, 10), **more,
    )  # fmt: skip


def _write_webp(frames: Frames, options: Export, path: Path, comment: str) -> Path:
    """Write a WebP by the fastest method; slower ones save 5 to 15 % in up to triple the time."""
    exif = Image.Exif()
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = comment.encode()
    return _write_pictures(
        [Image.fromarray(frame) for frame in frames], path, format="WEBP", exif=exif.tobytes(),
        duration=_durations(len(frames), options.rate, 1), loop=options.loops, quality=85, method=0,
    )  # fmt: skip


def _write_pictures(pictures: list[Image.Image], path: Path, **options: Any) -> Path:
    with atomic_write(path) as part:
        pictures[0].save(part, save_all=True, append_images=pictures[1:], **options)
    return path


def _durations(count: int, rate: float, unit_ms: int) -> list[int]:
    """Milliseconds of each frame, in whole units, with no error in the sum at any frame."""
    ends = np.round(np.arange(count + 1) * 1000 / rate / unit_ms).astype(int) * unit_ms
    return [int(ms) for ms in np.diff(ends)]


def _write_zip(frames: Frames, path: Path, comment: str) -> Path:
    digits = max(3, len(str(len(frames))))  # so that names sort in playing order
    with atomic_write(path) as part, zipfile.ZipFile(part, "w") as archive:
        for number, frame in enumerate(frames, 1):
            archive.writestr(f"frame-{number:0{digits}}.png", to_png(frame))
        archive.writestr(RECIPE_NAME, comment)
    return path
