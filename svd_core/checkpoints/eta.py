"""Remaining time (ETA) of a video, estimated from its stages and the timing of the last video."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from svd_core.checkpoints.speed_modes import at_speed
from svd_core.checkpoints.table import Checkpoint
from svd_core.events import OnProgress, Progress, Stage
from svd_core.params import FACTORS, MAX_FRAMES, VideoParams, limit_interpolation

# First guesses, until a video has been timed. On a CPU, decoding a frame takes about three times as
# long as encoding the photo (svd-nano 3.3, SVD-XT 2.7, counted in operations). On a GPU encoding is
# too short to time, and decoding all frames takes about one guided step (SVD-XT 1.09).
FRAMES_PER_ENCODING = 3.0
STEPS_PER_DECODING = 1.1

# Shares of svd-nano's clip in processor time: 0.6 of 5.9 s, 3.8 s, 1.5 s.
ENCODING_SHARE, STEPS_SHARE, DECODING_SHARE = 0.1, 0.65, 0.25

# Seconds on a ZeroGPU, a share of an H200. Modelled, not measured: 160 teraflop for a step of
# SVD-XT (29.5 megapixels with both halves of guidance) and 6.9 for a decoded frame (0.59), at 120 a
# second. The start of a process, weights from disk, the photo and the mp4 take the fixed part.
# Other checkpoints are not slower.
ZERO_GPU_STEP_S = 0.045
ZERO_GPU_DECODE_S = 0.098
ZERO_GPU_FIXED_S = 8.0

# The processor interpolates while the GPU is lent: 0.23 s for a megapixel on one core, measured,
# and at least two cores share the work.
ZERO_GPU_INTERPOLATION_S = 0.12

# The platform takes the GPU back after the requested time, all of which counts against a quota.
ZERO_GPU_MARGIN = 1.4

REPORT_S = 0.1
"""Seconds between two reports of loaded bytes."""

STEP_REPORT_S = 0.5
"""Least seconds between two reports within a step."""


@dataclass(frozen=True)
class Timing:
    """Seconds of the stages of a video: encoding the photo, one step, decoding one frame."""

    encode_s: float
    step_s: float
    decode_s: float


def first_guess(checkpoint: Checkpoint, pixels: int, num_frames: int) -> Timing | None:
    """Expected timing on a CPU before any video was made; None if nothing is known.

    `pixels`: of a frame. The work is assumed to be in proportion to pixels and frames.
    """
    if not checkpoint.cpu_core_s:
        return None
    width, height = checkpoint.sizes[0]
    size = pixels * num_frames / (width * height * checkpoint.num_frames)
    clip_s = checkpoint.cpu_core_s / (os.cpu_count() or 1) * size
    return Timing(
        encode_s=clip_s * ENCODING_SHARE,
        step_s=clip_s * STEPS_SHARE / checkpoint.num_inference_steps,
        decode_s=clip_s * DECODING_SHARE / num_frames,
    )


@dataclass
class ProgressEstimator:
    """Clock of one video, which gives `Progress` with the remaining time.

    Create it when the work begins. Call `encoding` then, and the other methods after each stage.
    `expected`: the timing of the last video of this kind, or a first guess; None: unknown.
    """

    num_steps: int
    num_frames: int
    on_cpu: bool
    expected: Timing | None = None
    clock: Callable[[], float] = time.monotonic
    _started: float = field(init=False)
    _encoded: float = field(init=False, default=0.0)
    _last_step: float = field(init=False, default=0.0)
    _reported: float = field(init=False, default=0.0)
    _steps: int = field(init=False, default=0)
    _frames: int = field(init=False, default=0)
    _decode_s: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._started = self.clock()

    def encoding(self) -> Progress:
        expected = self.expected
        left = expected.encode_s + self._steps_s() + self._decoding_s() if expected else None
        return self._timed(Progress(stage=Stage.ENCODING), left)

    def encoded(self) -> Progress:
        self._encoded = self._last_step = self.clock()
        left = self._steps_s() + self._decoding_s() if self.expected else None
        return self._timed(Progress(stage=Stage.DENOISING, total=self.num_steps), left)

    def within_step(self, share: float) -> Progress | None:
        """`share` of the current step is done, 0..1; None if the last report is recent."""
        now = self.clock()
        took = now - self._last_step
        if share <= 0 or now - max(self._last_step, self._reported) < STEP_REPORT_S:
            return None
        self._reported = now
        step_s = took / share
        if self._steps or self.expected:  # this step counts by its share that is done
            step_s = share * step_s + (1 - share) * self._step_s()
        left = step_s * (self.num_steps - self._steps - share) + self._decoding_s()
        progress = Progress(stage=Stage.DENOISING, step=self._steps, total=self.num_steps)
        return self._timed(progress, left)

    def step_done(self, steps: int) -> Progress:
        self._last_step, self._steps = self.clock(), steps
        progress = Progress(stage=Stage.DENOISING, step=steps, total=self.num_steps)
        return self._timed(progress, self._steps_s() + self._decoding_s())

    def frames_decoded(self, frames: int) -> Progress:
        """`frames` frames are decoded, 0 when decoding begins."""
        self._frames = frames
        if frames:
            self._decode_s = (self.clock() - self._last_step) / frames
        progress = Progress(stage=Stage.DECODING, step=frames, total=self.num_frames)
        return self._timed(progress, self._decoding_s())

    @property
    def timing(self) -> Timing | None:
        """Timing of this video; None before any frame is decoded."""
        if self._decode_s is None:
            return None
        return Timing(self._encoded - self._started, self._step_s(), self._decode_s)

    def _timed(self, progress: Progress, remaining: float | None = None) -> Progress:
        return replace(progress, elapsed_s=self.clock() - self._started, remaining_s=remaining)

    def _step_s(self) -> float:
        if self._steps:
            return (self._last_step - self._encoded) / self._steps
        return self.expected.step_s if self.expected else 0.0

    def _steps_s(self) -> float:
        return self._step_s() * (self.num_steps - self._steps)

    def _decoding_s(self) -> float:
        decode_s = self._decode_s or (self.expected.decode_s if self.expected else None)
        if decode_s is not None:
            return decode_s * (self.num_frames - self._frames)
        if self.on_cpu:
            return FRAMES_PER_ENCODING * self.num_frames * (self._encoded - self._started)
        return STEPS_PER_DECODING * self._step_s()


def zero_gpu_seconds(checkpoint: Checkpoint, params: VideoParams, continues: bool = False) -> int:
    """Seconds of a ZeroGPU to request for a video of `params` at the checkpoint's largest size.

    In proportion to steps, frames and pixels; a step without guidance takes half as long. For a
    video that `continues` another one, the most frames of a video are assumed for interpolation.
    """
    checkpoint = at_speed(checkpoint, params.speed)
    frame = max(width * height for width, height in checkpoint.sizes) / 1e6
    num_frames = params.num_frames or checkpoint.num_frames
    megapixels = frame * num_frames
    high = params.max_guidance_scale
    high = checkpoint.max_guidance_scale if high is None else high
    halves = 2 if max(high, params.min_guidance_scale or 0.0) > 1 else 1
    steps = params.num_inference_steps or checkpoint.num_inference_steps
    work = megapixels * (steps * halves * ZERO_GPU_STEP_S + ZERO_GPU_DECODE_S)
    factor = FACTORS[limit_interpolation(params.interpolation, params.rate)]
    in_between = frame * (MAX_FRAMES if continues else num_frames) * (factor - 1)
    work += in_between * ZERO_GPU_INTERPOLATION_S
    return math.ceil(ZERO_GPU_MARGIN * (work + ZERO_GPU_FIXED_S))


def byte_reports(on_progress: OnProgress) -> Callable[[int, int], None]:
    """A callback that reports (bytes loaded, bytes in all) as `Progress`, at most every 0.1 s."""
    started = time.monotonic()
    reported = -REPORT_S

    def on_bytes(loaded: int, total: int) -> None:
        nonlocal reported
        elapsed = time.monotonic() - started
        if loaded < total and elapsed - reported < REPORT_S:
            return
        reported = elapsed
        left = elapsed / loaded * (total - loaded) if loaded else None
        progress = Progress(stage=Stage.LOADING, step=loaded, total=total)
        on_progress(replace(progress, elapsed_s=elapsed, remaining_s=left))

    return on_bytes
