"""The speeds by name: what they ask of the model, and what they may change."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from PIL import Image
from safetensors.torch import save_file

from svd_core.checkpoints.defaults import with_defaults
from svd_core.checkpoints.speed_modes import GUIDED_SIGMAS, AccelerationConfig, reset_speed
from svd_core.checkpoints.table import CHECKPOINTS
from svd_core.engine.engine import SvdEngine
from svd_core.engine.optimizations.guidance import Guidance
from svd_core.engine.optimizations.schedulers import use_scheduler
from svd_core.errors import InvalidRequest, InvalidSettings, ModelBroken
from svd_core.media.recipe import fingerprint
from svd_core.messages import Message
from svd_core.params import VideoParams
from svd_core.settings import Settings
from svd_core.types import GenerationResult
from tests.fakes.errors import has_code

PHOTO = Image.effect_mandelbrot((64, 32), (-2, -1, 1, 1), 50).convert("RGB")

SVD = EulerDiscreteScheduler(
    sigma_min=0.002, sigma_max=700.0, timestep_spacing="leading", timestep_type="continuous",
    prediction_type="v_prediction", use_karras_sigmas=True, interpolation_type="linear",
)  # fmt: skip
"""As the published checkpoints have it."""

DEVIATION = 0.7
"""Of the data that the toy model below knows by heart."""


def own_dials(speed: str, **asked: Any) -> tuple[Any, ...]:
    found = with_defaults(VideoParams(seed=1, speed=speed, **asked), CHECKPOINTS["svd-xt"], 8)
    return found.num_inference_steps, found.min_guidance_scale, found.max_guidance_scale


def test_what_is_not_asked_for_comes_from_the_speed() -> None:
    assert own_dials("exact") == (25, 1.0, 3.0)
    assert own_dials("fast") == (14, 1.0, 3.0)
    assert own_dials("turbo") == (4, 1.0, 1.0)
    assert own_dials("fast", num_inference_steps=20) == (20, 1.0, 3.0)
    assert own_dials("turbo", max_guidance_scale=1.5) == (4, 1.0, 1.5)


def test_zero_gpu_has_neither_turbo_nor_compiled_blocks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usual, compiled = (
        Settings(compile=compile, turbo=Path(__file__), data_dir=tmp_path)
        for compile in ("auto", "on")
    )
    assert AccelerationConfig.from_settings(usual).turbo
    assert AccelerationConfig.from_settings(compiled).compile == "on"
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert AccelerationConfig.from_settings(usual) == AccelerationConfig()
    with pytest.raises(InvalidSettings, check=has_code("compile_on_zero_gpu")):
        AccelerationConfig.from_settings(compiled)


def test_without_weights_there_is_no_turbo() -> None:
    assert AccelerationConfig().speeds == ("exact", "fast")
    assert AccelerationConfig(turbo=Path("some.safetensors")).speeds == ("exact", "fast", "turbo")
    with pytest.raises(InvalidRequest, check=has_code("turbo_unavailable")):
        AccelerationConfig().check("turbo")


def test_back_from_another_speed_its_steps_and_guidance_go_too() -> None:
    turbo = VideoParams(seed=1, fps=9, speed="turbo", num_inference_steps=4, max_guidance_scale=1)
    assert reset_speed(turbo) == VideoParams(seed=1, fps=9)


def sampled(params: VideoParams, steps: int) -> torch.Tensor:
    """Samples of a normal distribution, whose perfect denoiser is known: x / (1 + (sigma / d)^2),
    through the sampler of `params`, as the pipeline uses it."""

    def velocity(scaled: torch.Tensor, t: Any) -> torch.Tensor:
        sigma = (4 * torch.as_tensor(t)).exp()
        sample = scaled * (sigma**2 + 1).sqrt()
        clean = sample / (1 + (sigma / DEVIATION) ** 2)
        return (sample / (sigma**2 + 1) - clean) * (sigma**2 + 1).sqrt() / sigma

    unet = SimpleNamespace(forward=Guidance(velocity))
    pipeline = SimpleNamespace(scheduler=EulerDiscreteScheduler.from_config(SVD.config), unet=unet)
    with use_scheduler(pipeline, params):
        scheduler = pipeline.scheduler
        scheduler.set_timesteps(steps, device="cpu")
        noise = torch.randn(4, 4, 50, 50, generator=torch.Generator().manual_seed(params.seed))
        sample = noise * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            said = velocity(scheduler.scale_model_input(sample, t), t)
            sample = scheduler.step(said, t, sample).prev_sample
    return sample


def error(speed: str, steps: int) -> float:
    """Of the way that each sample goes, which is straight: to `DEVIATION` times its noise."""
    noise = torch.randn(4, 4, 50, 50, generator=torch.Generator().manual_seed(1))
    found = sampled(VideoParams(seed=1, speed=speed), steps)
    return float((found - DEVIATION * noise).square().mean().sqrt())


def test_fast_goes_the_way_about_as_truly_in_half_the_steps() -> None:
    assert error("fast", 14) < 1.1 * error("exact", 25) < 0.75 * error("exact", 14)
    assert error("fast", 28) < 0.5 * error("fast", 14)  # of second order


def test_fast_leaves_two_fifths_of_the_work_and_turbo_less_than_a_tenth() -> None:
    pipeline = SimpleNamespace(scheduler=SVD, unet=SimpleNamespace(forward=Guidance(print)))
    steps, _, _ = own_dials("fast")
    with use_scheduler(pipeline, VideoParams(seed=1, speed="fast")):
        pipeline.scheduler.set_timesteps(steps, device="cpu")
        sigmas = pipeline.scheduler.sigmas[:-1].tolist()
    halves = sum(2 if GUIDED_SIGMAS[0] <= sigma <= GUIDED_SIGMAS[1] else 1 for sigma in sigmas)
    assert halves / (2 * 25) == pytest.approx(0.4)
    assert own_dials("turbo")[0] / (2 * 25) == pytest.approx(0.08)


def test_turbos_fresh_noise_is_not_what_the_clip_started_from() -> None:
    pipeline = SimpleNamespace(scheduler=SVD, unet=SimpleNamespace(forward=Guidance(print)))
    for seed in (0, 1, 2**32 - 1):
        with use_scheduler(pipeline, VideoParams(seed=seed, speed="turbo")):
            own = torch.randn(8, generator=pipeline.scheduler.generator)
        start = torch.randn(8, generator=torch.Generator().manual_seed(seed))
        assert not torch.allclose(own, start)


@pytest.mark.parametrize("steps", [2, 4, 8, 40])
def test_turbo_ends_in_the_distribution_and_its_noise_is_the_seeds(steps: int) -> None:
    """A step of consistency sampling goes to the mean here, from which fresh noise leads back."""
    first = sampled(VideoParams(seed=1, speed="turbo"), steps)
    assert torch.equal(first, sampled(VideoParams(seed=1, speed="turbo"), steps))
    assert not torch.allclose(first, sampled(VideoParams(seed=2, speed="turbo"), steps), atol=0.01)
    assert torch.isfinite(first).all()
    assert float(first.std()) < 1.05 * DEVIATION


def test_turbo_takes_the_levels_it_was_distilled_at() -> None:
    pipeline = SimpleNamespace(scheduler=SVD, unet=SimpleNamespace(forward=Guidance(print)))
    with use_scheduler(pipeline, VideoParams(seed=1, speed="turbo")):
        pipeline.scheduler.set_timesteps(4, device="cpu")
        found = pipeline.scheduler.sigmas.tolist()
    low, high = 0.002 ** (1 / 7), 700.0 ** (1 / 7)
    places = [0, 10, 20, 30]
    wanted = [(high + place / 39 * (low - high)) ** 7 for place in places]
    assert found == pytest.approx([*wanted, 0.0], rel=1e-4)
    assert pipeline.scheduler is SVD


@pytest.mark.parametrize("split", [False, True])
def test_guidance_is_asked_for_in_the_middle_only(split: bool) -> None:
    batches: list[int] = []

    def forward(sample: torch.Tensor, *_: Any) -> tuple[torch.Tensor]:
        batches.append(len(sample))
        return (sample * 2,)

    guidance = Guidance(forward)
    guidance.split = split
    both, more = torch.arange(2.0)[:, None], torch.zeros(2, 1)

    def ask(sigma: float) -> list[float]:
        batches.clear()
        found = guidance(both, torch.tensor(sigma).log() / 4, more, more)[0]
        return [float(value) for value in found.flatten()]

    guided = [1, 1] if split else [2]
    assert ask(700.0) == [0.0, 2.0]
    assert batches == guided
    guidance.guided = GUIDED_SIGMAS
    for sigma, halves, answer in (
        (1.0, guided, [0.0, 2.0]), (700.0, [1], [2.0, 2.0]), (0.002, [1], [2.0, 2.0]),
    ):  # fmt: skip
        assert ask(sigma) == answer
        assert batches == halves


@pytest.fixture
def make(tiny_checkpoint: Path) -> Callable[..., GenerationResult]:
    engines: dict[Path | None, SvdEngine] = {}

    def make(speed: str, turbo: Path | None = None, **params: Any) -> GenerationResult:
        engine = engines.setdefault(
            turbo, SvdEngine(str(tiny_checkpoint), acceleration=AccelerationConfig(turbo=turbo))
        )
        asked = VideoParams(**{"seed": 1, "num_inference_steps": 4, **params}, speed=speed)
        return engine.generate(PHOTO, asked, lambda _: None)

    return make


def test_a_fast_video_is_another_and_leaves_the_exact_ones_as_they_were(
    make: Callable[..., GenerationResult],
) -> None:
    exact, fast = make("exact").frames, make("fast").frames
    assert not np.array_equal(exact, fast)
    assert np.array_equal(fast, make("fast").frames)
    assert np.array_equal(exact, make("exact").frames)


def test_fast_guides_in_the_middle_only_also_behind_the_hooks_of_offload(
    tiny_checkpoint: Path, one_thread: None
) -> None:
    engine = SvdEngine(str(tiny_checkpoint))
    asked = VideoParams(seed=1, num_inference_steps=4, speed="fast")
    usual = engine.generate(PHOTO, asked, lambda _: None).frames
    assert engine._loaded is not None
    pipeline = engine._loaded._pipeline
    pipeline.enable_model_cpu_offload(device="cpu")
    assert np.array_equal(usual, engine.generate(PHOTO, asked, lambda _: None).frames)
    pipeline.remove_all_hooks()
    assert pipeline.unet.forward.guided is None


def test_turbo_uses_its_own_weights_and_gives_them_back(
    make: Callable[..., GenerationResult], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    own = tiny_checkpoint / "unet" / "diffusion_pytorch_model.safetensors"
    same, other = tmp_path / "same.safetensors", tmp_path / "other.safetensors"
    same.write_bytes(own.read_bytes())
    save_file(_shaken(own), other)
    exact = make("exact", other).frames
    turbo = make("turbo", other)
    weights = f"other.safetensors ({fingerprint(other)})"
    assert turbo.notes == (Message("turbo_used", weights=weights),)
    assert not np.array_equal(turbo.frames, make("turbo", same).frames)
    assert np.array_equal(turbo.frames, make("turbo", other).frames)
    assert np.array_equal(exact, make("exact", other).frames)


def _shaken(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {name: weight * 1.1 for name, weight in load_file(path).items()}


def test_turbo_has_no_more_steps_than_it_was_distilled_at(
    make: Callable[..., GenerationResult],
) -> None:
    with pytest.raises(InvalidRequest, check=has_code("turbo_steps_exceeded", most=40)):
        make("turbo", Path("some.safetensors"), num_inference_steps=41)


def test_turbo_without_weights_is_refused_in_one_sentence(
    make: Callable[..., GenerationResult],
) -> None:
    with pytest.raises(InvalidRequest, check=has_code("turbo_unavailable")) as caught:
        make("turbo")
    assert caught.value.field == "speed"


def test_weights_that_do_not_fit_are_named_and_the_next_video_is_made(
    make: Callable[..., GenerationResult], tmp_path: Path
) -> None:
    small, torn = tmp_path / "small.safetensors", tmp_path / "torn.safetensors"
    save_file({"conv_in.weight": torch.zeros(1)}, small)
    torn.write_bytes(b"not weights")
    for path in (small, torn, tmp_path / "missing.safetensors"):
        with pytest.raises(ModelBroken, match=path.name):
            make("turbo", path)
        assert make("exact", path).frames.any()
