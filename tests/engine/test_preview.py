"""A preview shows how the video is going to look, early, small, and for any latents."""

import io

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from PIL import Image, ImageSequence

from svd_core.engine.preview import MAX_BYTES, LatentPreview, encode_webp

CELLS = (18, 32)
SCALING = 0.2


class Codec:
    """Linear latents of pictures, with `channels` channels."""

    def __init__(self, channels: int) -> None:
        self.mix = np.random.default_rng(channels).normal(size=(3, channels)) / 80

    def latents(self, pictures: np.ndarray) -> torch.Tensor:
        """(number, channels, height, width), not scaled."""
        return torch.tensor((pictures - 100.0) @ self.mix).float().permute(0, 3, 1, 2)


def scene(num_frames: int = 5) -> np.ndarray:
    """Colourful shapes that wander to the right by three cells a frame."""
    y, x = np.mgrid[0 : CELLS[0], 0 : CELLS[1]]
    frames = [
        np.stack([np.sin((x - 3 * t) / 4), np.cos((x - 3 * t) / 7 + y / 4), np.sin(y / 3)], -1)
        for t in range(num_frames)
    ]
    return (127 + 110 * np.stack(frames)).astype(np.uint8)


def photo_of(picture: np.ndarray) -> Image.Image:
    """A photo eight times as large as its cells."""
    return Image.fromarray(picture.repeat(8, axis=0).repeat(8, axis=1))


class Scheduler:
    """Predicts `predicted` for every input."""

    def __init__(self, predicted: torch.Tensor) -> None:
        self.predicted = predicted

    def step(self, *_: object) -> "Scheduler":
        return self

    @property
    def pred_original_sample(self) -> torch.Tensor:
        return self.predicted


def sketch(
    pictures: np.ndarray, channels: int, num_steps: int = 1, guided: bool = False
) -> LatentPreview:
    """One that has learnt from the first picture and is shown all of them."""
    codec = Codec(channels)
    made = LatentPreview(photo_of(pictures[0]), num_steps, 7, SCALING)
    latents = codec.latents(pictures)
    photo = latents[:1].expand(latents.shape)
    sample = torch.cat([torch.randn(latents.shape), photo], dim=1)[None]
    if guided:  # without the photo comes first
        sample = torch.cat([torch.zeros(sample.shape), sample])
    made.fit(sample)
    scheduler = Scheduler((latents * SCALING)[None])
    with made.record(scheduler):
        scheduler.step()
    return made


def shown(preview: bytes | None) -> np.ndarray:
    assert preview is not None
    with Image.open(io.BytesIO(preview)) as file:
        assert file.format == "WEBP"
        frames = [p.convert("RGB") for p in ImageSequence.Iterator(file)]
    return np.stack([np.asarray(p.resize(CELLS[::-1], Image.Resampling.BOX)) for p in frames])


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("channels", [4, 16])
def test_it_shows_the_frames_to_come_in_their_colours(channels: int, guided: bool) -> None:
    frames = scene()
    found = shown(sketch(frames, channels, guided=guided).preview(1))
    error = np.abs(found[:, None].astype(float) - frames[None]).mean(axis=(2, 3, 4))
    assert error.argmin(axis=1).tolist() == list(range(len(frames)))
    assert error.diagonal().max() < 8


def test_a_photo_of_one_colour_gives_a_preview_of_that_colour() -> None:
    frames = np.full((3, *CELLS, 3), (200, 80, 40), np.uint8)
    found = shown(sketch(np.concatenate([frames[:1], frames]), 4).preview(1))
    assert np.abs(found.astype(int) - frames[:1]).max() < 8


@pytest.mark.parametrize(
    ("num_steps", "due"),
    [(1, [1]), (4, [1, 2, 3, 4]), (25, [1, 4, 8, 12, 16, 20, 24, 25]), (30, 9), (100, 9)],
)
def test_previews_come_now_and_then(num_steps: int, due: list[int] | int) -> None:
    made = sketch(scene(2), 4, num_steps)
    steps = [step for step in range(1, num_steps + 1) if made.preview(step) is not None]
    assert steps[0] == 1
    assert steps[-1] == num_steps
    assert steps == due or len(steps) == due


def test_a_form_shows_after_the_first_step_of_many() -> None:
    """The latents themselves are noise of hundreds of times their own size then."""
    frames = scene()
    latents = Codec(4).latents(frames) * SCALING
    scheduler = EulerDiscreteScheduler(
        prediction_type="v_prediction", use_karras_sigmas=True, sigma_min=0.002, sigma_max=700.0,
        timestep_type="continuous", timestep_spacing="leading",
    )  # fmt: skip
    scheduler.set_timesteps(25)
    made = sketch(frames, 4, num_steps=25)
    noisy = torch.randn(latents[None].shape) * scheduler.init_noise_sigma
    sigma = scheduler.sigmas[0]
    perfect = (noisy / (sigma**2 + 1) - latents) * (sigma**2 + 1) ** 0.5 / sigma
    with made.record(scheduler):
        after = scheduler.step(perfect, scheduler.timesteps[0], noisy).prev_sample
    assert after.std() > 100 * latents.std()
    error = np.abs(shown(made.preview(1)).astype(float) - frames)
    assert error.mean() < 8


def test_it_plays_for_ever_at_the_rate_of_the_video() -> None:
    with Image.open(io.BytesIO(sketch(scene(), 4).preview(1) or b"")) as file:
        assert file.info["loop"] == 0
        assert [p.info["duration"] for p in ImageSequence.Iterator(file) if p.load()] == [143] * 5


def test_what_does_not_compress_stays_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 144, 256, 3), dtype=np.uint8)
    assert len(encode_webp(noise, 7)) <= MAX_BYTES


def test_the_scheduler_is_left_as_it_was() -> None:
    scheduler = Scheduler(torch.zeros(1, 2, 4, *CELLS))
    made = LatentPreview(photo_of(scene(1)[0]), 1, 7, 1.0)
    with pytest.raises(KeyboardInterrupt), made.record(scheduler):
        raise KeyboardInterrupt
    assert "step" not in vars(scheduler)
    assert made.preview(1) is None  # nothing was seen
