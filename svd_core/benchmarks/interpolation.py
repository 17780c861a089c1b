"""Leave-one-out quality of frame interpolation: `python -m svd_core.benchmarks interpolation`.

Every second frame of a clip is left out and made again, by interpolation and by blending its two
neighbours. PSNR in dB against the frames left out; a table, then a line of JSON. The clips are the
mp4s named on the command line, by default the examples. In use the motion search is easier, since
frames are half as far apart as here.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from svd_core.benchmarks.targets import print_json
from svd_core.checkpoints.table import ASSETS
from svd_core.media.interpolation import interpolate
from svd_core.media.video import read_frames
from svd_core.types import Frames

TARGET_DB = 6.0
"""Gain over blending that interpolation should have on average."""

BLOCK = 16
"""Side in pixels of the blocks whose errors are compared."""

VISIBLE = 20.0
"""Mean square error, in levels of 255, below which an error is invisible."""


@dataclass(frozen=True)
class LeaveOneOut:
    """PSNR in dB of both ways to make frames that were left out, and `seconds` of interpolation.

    `worse`: share of the blocks that interpolation gets visibly wrong, with at least twice the
    square error of blending.
    """

    frames: int
    blending: float
    interpolation: float
    worse: float
    seconds: float

    @property
    def gain(self) -> float:
        return self.interpolation - self.blending


def leave_one_out(clip: Frames) -> LeaveOneOut:
    """Interpolate every second frame of a clip (n, h, w, 3) of at least three frames."""
    kept = np.ascontiguousarray(clip[::2])
    left_out = clip[1::2][: len(kept) - 1]
    started = time.perf_counter()
    interpolated = interpolate(kept, 2)[1::2]
    seconds = time.perf_counter() - started
    blended = ((kept[:-1].astype(np.uint16) + kept[1:] + 1) // 2).astype(np.uint8)
    errors, errors_blended = _block_errors(interpolated, left_out), _block_errors(blended, left_out)
    return LeaveOneOut(
        frames=len(left_out),
        blending=psnr(blended, left_out),
        interpolation=psnr(interpolated, left_out),
        worse=float(((errors > VISIBLE) & (errors > 2 * errors_blended)).mean()),
        seconds=seconds,
    )


def psnr(frames: Frames, reference: Frames) -> float:
    """Peak signal-to-noise ratio in dB; 98 for equal frames."""
    error = np.mean((frames.astype(np.float32) - reference) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-5)))


def main(argv: Sequence[str] = ()) -> int:
    paths = [Path(name) for name in argv] or sorted((ASSETS / "examples").glob("*.mp4"))
    rows = {path.stem: leave_one_out(read_frames(path)) for path in paths}
    print("clip             frames    blending  interpolated      gain    worse   seconds")
    for name, row in rows.items():
        print(
            f"{name[:15]:16}{row.frames:7}{row.blending:9.1f} dB{row.interpolation:11.1f} dB"
            f"{row.gain:7.1f} dB{row.worse:9.2%}{row.seconds:10.2f}"
        )
    gain = mean(row.gain for row in rows.values())
    print(f"Average gain over blending: {gain:.1f} dB (target: at least {TARGET_DB:.0f} dB).")
    clips = {name: asdict(row) | {"gain": row.gain} for name, row in rows.items()}
    print_json({"gain": gain, "clips": clips})
    return 0


def _block_errors(frames: Frames, reference: Frames) -> NDArray[np.float32]:
    """Mean square error of each whole block."""
    height, width = (side // BLOCK * BLOCK for side in frames.shape[1:3])
    squares = (frames[:, :height, :width].astype(np.float32) - reference[:, :height, :width]) ** 2
    blocks = squares.reshape(len(frames), height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3)
    errors: NDArray[np.float32] = blocks.mean(axis=(2, 4, 5))
    return errors
