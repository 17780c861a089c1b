"""The meter says of clips whose motion is known what a person would say."""

import numpy as np
import pytest
from PIL import Image

from svd_core.checkpoints.table import ASSETS
from svd_core.media.motion_meter import Level, measure_motion
from svd_core.types import Frames

RNG = np.random.default_rng(5)


def texture(width: int, height: int, finest: int = 8) -> np.ndarray:
    """Blobs of several sizes, as photos have them."""
    layers = []
    for size in (finest, 3 * finest, 9 * finest):
        small = RNG.integers(0, 256, (height // size + 2, width // size + 2, 3), dtype=np.uint8)
        large = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        layers.append(np.asarray(large, np.float32))
    return 0.2 * layers[0] + 0.35 * layers[1] + 0.45 * layers[2]


SCENE = Image.fromarray(texture(1100, 400).astype(np.uint8))


def pan(percent: float, width: int = 512, height: int = 288, num_frames: int = 14) -> Frames:
    """A camera that moves to the right by so much of the width a frame."""
    step = percent * width / 100
    boxes = [(t * step, 40.0, t * step + width, 40.0 + height) for t in range(num_frames)]
    size, how = (width, height), Image.Resampling.BICUBIC
    return np.stack([np.asarray(SCENE.resize(size, how, box=box)) for box in boxes])


def zoom(percent: float) -> Frames:
    """A camera that goes ahead."""
    frames = []
    for t in range(14):
        half = np.array([512, 288]) / 2 * (1 - percent / 100) ** t
        box = (556 - half[0], 200 - half[1], 556 + half[0], 200 + half[1])
        frames.append(np.asarray(SCENE.resize((512, 288), Image.Resampling.BICUBIC, box=box)))
    return np.stack(frames)


def shaken(frames: Frames, by: np.ndarray) -> Frames:
    return (frames + by).clip(0, 255).astype(np.uint8)


STILL = pan(0)
SWING = (-1.0) ** np.arange(14)[:, None, None, None]


@pytest.mark.parametrize(
    ("frames", "level"),
    [
        (STILL, "still"),
        (shaken(STILL, RNG.normal(0, 2, STILL.shape)), "still"),  # grain
        (pan(0.03), "still"),
        (pan(0.3), "gentle"),
        (pan(0.3, 288, 144), "gentle"),
        (pan(0.3, 288, 288), "gentle"),
        (zoom(0.8), "gentle"),
        (pan(1.5), "lively"),
        (pan(6), "lively"),
        (zoom(4), "lively"),
        (shaken(STILL, np.arange(14)[:, None, None, None] * 5.0), "still"),  # a fade
        (shaken(STILL, SWING * 6), "unstable"),  # flicker
        (shaken(pan(0.3), SWING * 6), "unstable"),
        (RNG.integers(0, 256, STILL.shape, dtype=np.uint8), "unstable"),
        (np.stack([texture(512, 288) for _ in range(6)]).astype(np.uint8), "unstable"),
        (np.stack([pan(0, num_frames=1)[0], texture(512, 288)] * 4).astype(np.uint8), "unstable"),
    ],
)
def test_a_clip_is_called_what_it_is(frames: Frames, level: Level) -> None:
    assert measure_motion(frames).level == level


@pytest.mark.parametrize("percent", [0.2, 0.5, 1, 2, 4, 8])
@pytest.mark.parametrize("width", [256, 512])
def test_flow_is_told_in_percent_of_the_longer_side(percent: float, width: int) -> None:
    found = measure_motion(pan(percent, width, width * 9 // 16)).flow
    assert found == pytest.approx(percent, rel=0.5)


def test_a_rocket_before_the_sky_is_followed() -> None:
    """Little in it tells of the motion: who looks at surroundings only takes it for 0.7 %."""
    photo = Image.open(ASSETS / "examples" / "rocket.jpg").convert("RGB").resize((1024, 1821))
    boxes = [(20.0 * t, 20.0, 20.0 * t + 512, 308.0) for t in range(14)]
    frames = np.stack([np.asarray(photo.resize((512, 288), box=box)) for box in boxes])
    assert measure_motion(frames).flow == pytest.approx(100 * 20 / 512, rel=0.3)


def test_a_subject_that_moves_alone_counts() -> None:
    frames = STILL.copy()
    subject = texture(140, 120).astype(np.uint8)
    for t, frame in enumerate(frames):
        frame[90:210, 60 + 8 * t : 200 + 8 * t] = subject
    assert measure_motion(frames).level == "lively"


@pytest.mark.parametrize("num_frames", [2, 3])
def test_short_clips_can_be_measured(num_frames: int) -> None:
    assert measure_motion(pan(1.5, num_frames=num_frames)).level == "lively"


@pytest.mark.parametrize("size", [(64, 8), (8, 64), (32, 32), (1024, 576)])
def test_any_size_can_be_measured(size: tuple[int, int]) -> None:
    frames = np.full((3, size[1], size[0], 3), 90, np.uint8)
    assert measure_motion(frames).level == "still"
