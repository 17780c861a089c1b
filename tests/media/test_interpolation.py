"""Interpolation keeps the given frames and puts new ones on the way between them."""

import threading
from pathlib import Path

import numpy as np
import pytest

from svd_core.benchmarks.interpolation import TARGET_DB, leave_one_out
from svd_core.errors import Cancelled, GenerationFailed
from svd_core.media.interpolation import FRAMES_PER_RUN, interpolate
from svd_core.media.video import read_frames
from svd_core.params import Interpolation, limit_interpolation
from svd_core.types import Frames
from tests.media.test_video import Fake, fake_ffmpeg, moving, noise

__all__ = ["fake_ffmpeg"]  # a fixture

EXAMPLES = Path(__file__).parents[2] / "assets" / "examples"


def panned(num_frames: int, step: int = 4, size: tuple[int, int] = (72, 128)) -> Frames:
    """A window that moves `step` pixels a frame over a picture with shapes of many sizes."""
    height, width = size
    y, x = np.mgrid[0:height, 0 : width + step * num_frames]
    waves = [np.sin(x / a + y / b) + np.cos(x / b - y / a) for a, b in ((9, 14), (5, 23), (17, 4))]
    picture = (127 + 55 * np.stack(waves, -1)).astype(np.uint8)
    return np.stack([picture[:, step * t : step * t + width] for t in range(num_frames)])


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize(
    "shape",
    [
        (2, 72, 128), (3, 33, 35), (FRAMES_PER_RUN, 16, 16), (FRAMES_PER_RUN + 1, 40, 24),
        (FRAMES_PER_RUN + 2, 24, 40),
        (2 * FRAMES_PER_RUN + 1, 31, 9), (3 * FRAMES_PER_RUN + 2, 8, 8), (2, 1, 1), (5, 3, 100),
    ],
)  # fmt: skip
def test_the_given_frames_stay_bit_for_bit(shape: tuple[int, int, int], factor: int) -> None:
    num_frames, height, width = shape
    frames = noise(width, height, num_frames)
    result = interpolate(frames, factor)
    assert result.shape == ((num_frames - 1) * factor + 1, height, width, 3)
    assert result.dtype == np.uint8
    assert np.array_equal(result[::factor], frames)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize(
    "num_frames", [2, 3, FRAMES_PER_RUN + 1, FRAMES_PER_RUN + 2, 2 * FRAMES_PER_RUN + 3]
)
def test_every_interval_is_filled_with_what_lies_between(num_frames: int, factor: int) -> None:
    """First, last and those at the borders of pieces too: none repeats or skips a neighbour."""
    true = panned((num_frames - 1) * factor + 1, step=8 // factor)
    result = interpolate(np.ascontiguousarray(true[::factor]), factor)
    some, all_true = (each[:, ::4, ::4].astype(np.float32) for each in (result, true))
    error = np.abs(some[:, None] - all_true[None]).mean(axis=(2, 3, 4))
    assert error.argmin(axis=1).tolist() == list(range(len(true)))


def test_motion_is_followed_where_blending_shows_things_twice() -> None:
    found = leave_one_out(panned(13))
    assert found.gain > 10
    assert found.worse < 0.01


def test_an_example_clip_gains_six_decibels_over_blending() -> None:
    clip = read_frames(EXAMPLES / "temple.mp4")  # the one with the least gain
    found = leave_one_out(clip)
    assert found.frames == 6
    assert found.gain > TARGET_DB


@pytest.mark.parametrize("shade", [0, 90, 255])
def test_a_still_scene_stays_still(shade: int) -> None:
    frames = np.full((4, 40, 56, 3), shade, np.uint8)
    frames[:, 10:20, 15:30] = (200, 120, 30)
    result = interpolate(frames, 4).astype(int)
    assert np.abs(result - frames[0]).max() <= 2  # what the colours lose on the way to YUV and back


def test_a_long_video_is_made_of_the_same_frames_as_its_pieces() -> None:
    """The motion search starts afresh at the borders, so the number of processors is no matter."""
    frames = moving(num_frames=2 * FRAMES_PER_RUN + 1)
    whole = interpolate(frames, 2)
    first = interpolate(frames[: FRAMES_PER_RUN + 2], 2)
    assert np.array_equal(whole[: 2 * FRAMES_PER_RUN + 1], first[: 2 * FRAMES_PER_RUN + 1])
    assert np.array_equal(whole, interpolate(frames, 2))


@pytest.mark.parametrize("num_frames", [1, 5])
def test_nothing_to_fill_in_is_nothing_to_do(num_frames: int) -> None:
    frames = moving(num_frames=num_frames)
    assert np.array_equal(interpolate(frames, 1), frames)
    assert np.array_equal(interpolate(frames[:1], 4), frames[:1])


def test_the_work_is_reported_and_can_be_stopped() -> None:
    frames = moving(num_frames=2 * FRAMES_PER_RUN + 2)
    reports: list[tuple[int, int]] = []
    interpolate(frames, 2, lambda done, total: reports.append((done, total)))
    assert reports == [(0, 3), (1, 3), (2, 3)]

    def stop(done: int, total: int) -> None:
        if done == 1:
            raise Cancelled

    threads = threading.active_count()
    with pytest.raises(Cancelled):
        interpolate(frames, 2, stop)
    assert threading.active_count() == threads


@pytest.mark.parametrize("script", ["exit 0", "head -c 1000 /dev/zero", "exit 3"])
def test_a_failure_of_ffmpeg_is_reported(fake_ffmpeg: Fake, script: str) -> None:
    fake_ffmpeg(f"cat > /dev/null; {script}")
    with pytest.raises(GenerationFailed):
        interpolate(moving(), 2)


@pytest.mark.parametrize(
    ("asked", "fps", "max_fps", "used"),
    [
        ("off", 7, 100, "off"), ("2x", 7, 100, "2x"), ("4x", 7, 100, "4x"), ("4x", 25, 100, "4x"),
        ("4x", 26, 100, "2x"), ("4x", 50, 100, "2x"), ("2x", 50, 100, "2x"), ("4x", 51, 100, "off"),
        ("2x", 100, 100, "off"), ("4x", 1, 100, "4x"), ("4x", 20, 50, "2x"), ("4x", 30, 50, "off"),
        ("off", 100, 50, "off"), ("4x", 100, float("inf"), "4x"),
    ],
)  # fmt: skip
def test_the_rate_stays_within_its_limit(
    asked: Interpolation, fps: int, max_fps: float, used: Interpolation
) -> None:
    assert limit_interpolation(asked, fps, max_fps) == used
