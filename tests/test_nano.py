"""Training svd-nano: codec and first weights do what they claim; training survives accidents."""

import json
import logging
from pathlib import Path

import pytest
import torch
from PIL import Image

from svd_core.errors import SvdError
from svd_core.nano import clips, codec, denoising, operators, shape, steering, warping
from svd_core.nano.course import Course
from svd_core.nano.photos import load_photos, random_crop, sources
from svd_core.nano.train import main

GENERATOR_SEED = 3


def smooth_photo(width: int, height: int, seed: int = 0) -> torch.Tensor:
    """A picture of soft blobs, (3, height, width) in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, 3, height // 16, width // 16, generator=generator)
    blobs = torch.nn.functional.interpolate(noise, (height, width), mode="bicubic")
    return blobs[0].clamp(-1, 1)


@pytest.fixture(scope="module")
def kernel() -> torch.Tensor:
    pictures = [smooth_photo(128, 96, seed) for seed in range(6)]
    components, deviations = codec.principal_components(pictures)
    return codec.encoding_kernel(components, deviations.clamp(min=0.05))


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(3):
        pixels = ((smooth_photo(160, 120, seed) + 1) * 127.5).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return folder


@pytest.mark.parametrize("brightness", [None, 1.0, -1.0])
def test_stock_encoder_is_the_linear_codec(kernel: torch.Tensor, brightness: float | None) -> None:
    vae = shape.vae().eval()
    codec.install(vae.encoder, vae.quant_conv, kernel)
    pixels = smooth_photo(96, 64)[None]
    if brightness is not None:
        pixels = torch.full_like(pixels, brightness)
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mode()
    expected = codec.encode(pixels, kernel)
    assert latents.shape == (1, shape.LATENT_CHANNELS, 8, 12)
    assert (latents - expected).abs().max() < 0.02 * expected.abs().max()
    assert torch.equal(codec.installed(vae.encoder), kernel)


def test_principal_components_reconstruct_smooth_pictures(kernel: torch.Tensor) -> None:
    picture = smooth_photo(64, 64, 11)
    flat = kernel.reshape(len(kernel), -1)
    decoding = torch.linalg.pinv(flat)
    blocks = torch.nn.functional.unfold(picture[None], 8, stride=8)[0]
    error = (decoding @ (flat @ blocks) - blocks).square().mean()
    assert error < 0.02 * blocks.square().mean()


@pytest.fixture(scope="module")
def moving(kernel: torch.Tensor) -> shape.Net:
    """The UNet as training starts from it."""
    torch.manual_seed(0)
    unet = shape.unet()
    photos = [smooth_photo(128, 96, seed) for seed in range(4)]
    warping.initialise(unet, operators.fit(photos, kernel))
    return unet


def denoise(
    unet: shape.Net, photo: torch.Tensor, noise: torch.Tensor, bucket: float, fps: float
) -> torch.Tensor:
    """Clean latents of one step from pure noise, (frames, channels, height, width)."""
    frames = len(noise)
    with torch.no_grad():
        answer = unet(
            torch.cat([noise, photo.expand(frames, -1, -1, -1)], dim=1)[None],
            torch.tensor(shape.SIGMA_MAX).log() / 4,
            encoder_hidden_states=torch.zeros(1, 1, shape.CLIP_WIDTH),
            added_time_ids=torch.tensor([[fps - 1, bucket, 0.02]]),
            return_dict=False,
        )[0][0]
    return -answer.float()


def pointing_noise(frames: int, height: int, width: int, x: float, y: float) -> torch.Tensor:
    """Noise that stands for `x` and `y` deviations of motion, exactly."""
    generator = torch.Generator().manual_seed(GENERATOR_SEED)
    noise = torch.randn(frames, shape.LATENT_CHANNELS, height, width, generator=generator)
    for channel, deviations in zip(steering.MOTION_CHANNELS, (x, y), strict=True):
        noise[:, channel] -= noise[:, channel].mean()
        noise[:, channel] += deviations / (steering.CELLS * steering.FRAMES) ** 0.5
    return noise


@pytest.mark.parametrize(("x", "y"), [(1.0, 0.0), (-2.5, 0.0), (0.0, 1.5), (1.2, -1.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_first_weights_move_the_photo_as_the_noise_says(
    moving: shape.Net, kernel: torch.Tensor, x: float, y: float, dtype: torch.dtype
) -> None:
    photo = smooth_photo(128, 96, 31)
    noise = pointing_noise(8, 12, 16, x, y)
    latents = codec.encode(photo[None], kernel)
    with torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
        made = denoise(moving, latents, noise, 127, 7)
    motion = clips.motion_of(noise, 127, 7)
    wanted = codec.encode(clips.render(photo, motion, 8), kernel)
    error = (made - wanted).square().mean(dim=(1, 2, 3))
    standing = (latents - wanted).square().mean(dim=(1, 2, 3))
    assert error[0] < 0.002
    assert (error[1:] < 0.25 * standing[1:] + 0.002).all()


def test_motion_grows_with_the_bucket_and_is_a_speed_not_a_step(
    moving: shape.Net, kernel: torch.Tensor
) -> None:
    latents = codec.encode(smooth_photo(128, 96, 32)[None], kernel)
    noise = pointing_noise(6, 12, 16, 1.0, 0.5)

    def change(bucket: float, fps: float) -> float:
        made = denoise(moving, latents, noise, bucket, fps)
        return float((made[-1] - made[0]).square().mean())

    assert change(32, 7) < 0.5 * change(127, 7) < 0.5 * change(223, 7)
    assert change(127, 25) < 0.5 * change(127, 7)


def test_edges_go_on_instead_of_turning_grey(moving: shape.Net, kernel: torch.Tensor) -> None:
    white = codec.encode(torch.full((1, 3, 96, 128), 0.9), kernel)
    made = denoise(moving, white, pointing_noise(6, 12, 16, 2.0, -2.0), 127, 7)
    assert (made - white).abs().max() < 0.1 * white.abs().max()


def test_clip_starts_at_the_photo_and_moves_by_the_bucket_and_fps() -> None:
    photo = smooth_photo(64, 48)
    frames = clips.render(photo, clips.Motion(2.0, -1.0), 5)
    assert torch.allclose(frames[0], photo, atol=1e-3)
    assert torch.allclose(frames[3][:, :30, 6:], photo[:, 3:33, :-6], atol=1e-3)
    assert clips.speed(254, 7) == pytest.approx(2 * clips.speed(127, 7))
    assert clips.speed(127, 14) == pytest.approx(clips.speed(127, 7) / 2)
    noise = torch.randn(4, shape.LATENT_CHANNELS, 6, 8)
    motion, opposite = (clips.motion_of(sign * noise, 127, 7) for sign in (1, -1))
    assert motion.x == pytest.approx(-opposite.x)


def test_unreadable_photo_is_skipped_and_named(
    photo_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (photo_folder / "torn.jpg").write_bytes(b"not a picture")
    with caplog.at_level(logging.WARNING):
        assert len(load_photos(photo_folder)) == 3
    assert "torn.jpg" in caplog.text


def test_no_photo_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    arguments = ["--photos", str(tmp_path / "empty"), "--state", str(tmp_path / "state")]
    assert main(arguments) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_crops_stay_inside_and_have_the_size_asked_for() -> None:
    photo = torch.randint(0, 256, (3, 60, 90), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    for size in ((64, 32), (32, 64), (128, 96)):
        crop = random_crop(photo, size, generator)
        assert crop.shape == (3, size[1], size[0])
        assert -1.01 <= crop.min() <= crop.max() <= 1.01


def toy_course(path: Path, weight: float = 0.0) -> Course:
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(module.weight, weight)

    def draw_loss(generator: torch.Generator) -> torch.Tensor:
        x = torch.randn(4, 1, generator=generator)
        return (module(x).float() - 2 * x).square().mean()

    course = Course(path, {"m": module}, draw_loss, rate=0.01, half_life=1000)
    course.resume()
    return course


def steps(course: Course, count: int) -> list[float]:
    losses: list[float] = []

    class EnoughError(Exception):
        pass

    def on_step(_course: Course, loss: float) -> None:
        losses.append(loss)
        if len(losses) == count:
            raise EnoughError

    with pytest.raises(EnoughError):
        course.train(600, on_step)
    return losses


def test_training_goes_on_after_a_kill_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = steps(toy_course(tmp_path / "whole.pt"), 20)
    first = toy_course(tmp_path / "parts.pt")
    begun = steps(first, 10)
    first.save()
    steps(first, 3)  # lost: the process dies before it saves again
    again = toy_course(tmp_path / "parts.pt", weight=9.0)
    assert again.step == 10
    assert begun + steps(again, 10) == pytest.approx(whole)


def test_state_broken_off_while_written_leaves_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = toy_course(tmp_path / "state.pt")
    steps(course, 5)
    course.save()
    steps(course, 5)

    def torn(_state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(OSError, match="disk full"):
        course.save()
    assert toy_course(tmp_path / "state.pt").step == 5


def test_loss_that_is_not_finite_stops_and_names_the_step(tmp_path: Path) -> None:
    course = toy_course(tmp_path / "state.pt")
    steps(course, 5)
    course.save()
    course.draw_loss = lambda _generator: (
        course.average["m.weight"].sum() * float("nan")
        + sum(p.sum() for p in course.modules["m"].parameters())
    )
    with pytest.raises(SvdError, match="step 5"):
        course.train(60, lambda _course, _loss: None)
    kept = toy_course(tmp_path / "state.pt")
    assert kept.step == 5
    assert all(torch.isfinite(p).all() for p in kept.modules["m"].parameters())


def test_one_clip_can_be_learnt_by_heart(
    kernel: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svd_core.nano.course.WARM_UP_STEPS", 5)
    torch.manual_seed(0)
    unet, encoder = shape.unet(), shape.image_encoder()
    generator = torch.Generator().manual_seed(GENERATOR_SEED)
    batch = denoising.draw([smooth_photo(64, 32)], kernel, generator, num_frames=3)
    batch.sigma.fill_(shape.SIGMA_MAX)
    course = Course(
        tmp_path / "one.pt",
        {"unet": unet, "image_encoder": encoder},
        lambda _generator: denoising.loss(unet, encoder, batch).mean(),
        rate=1e-3,
        half_life=1000,
    )
    losses = steps(course, 20)
    assert losses[-1] < 0.5 * losses[0]


def test_command_trains_both_courses_and_exports_a_stock_checkpoint(
    photo_folder: Path, tmp_path: Path
) -> None:
    state, folder = tmp_path / "state", tmp_path / "svd-toy"
    common = ["--photos", str(photo_folder), "--state", str(state), "--device", "cpu"]
    for course in ("decoder", "unet"):
        arguments = ["--course", course, "--dial", "tiny", "--minutes", "0.01"]
        assert main([*common, *arguments]) == 0
    assert main([*common, "--export", str(folder)]) == 0
    assert json.loads((folder / "svd.json").read_text())["num_frames"] == shape.NUM_FRAMES
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "StableVideoDiffusionPipeline"
    assert sum(f.stat().st_size for f in folder.rglob("*")) < 40 * 2**20
    again = ["--photos", str(photo_folder), "--state", str(tmp_path / "new"), "--device", "cpu"]
    assert main([*again, "--adopt", str(folder), "--export", str(tmp_path / "twin")]) == 0
    weights = Path("vae") / "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "twin" / weights).read_bytes() == (folder / weights).read_bytes()


def test_export_before_training_says_what_is_missing(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--photos", str(photo_folder), "--state", str(tmp_path / "state")]
    assert main([*arguments, "--export", str(tmp_path / "out")]) == 1
    assert "decoder.pt" in capsys.readouterr().err


def test_every_source_names_a_licence_and_no_example_is_among_them() -> None:
    known = {source.sha256 for source in sources()}
    assert len(known) == len(list(sources())) > 50
    assert all(source.licence and len(source.sha256) == 64 for source in sources())
