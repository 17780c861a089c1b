"""Training svd-nano: the inner levels learn what they should, and training survives accidents."""

import json
import logging
from pathlib import Path

import pytest
import torch
from PIL import Image

from svd_core.errors import SvdError
from svd_core.training import (
    architecture,
    depth_net,
    diffusion_loss,
    initial_weights,
    warp_attention,
)
from svd_core.training.dataset import (
    DepthShape,
    draw_annotations,
    load_annotations,
    load_photos,
    random_crop,
    with_depth_annotations,
)
from svd_core.training.sample_sheets import draw_sample
from svd_core.training.stages import TRAINING_SIZES, TrainingContext
from svd_core.training.train import main
from svd_core.training.trainer import TrainingRun
from svd_core.training.vae import decode, decoder_loss, encode, prepare_decoder
from tests.fakes.training_photos import save_photos, smooth_kernel, smooth_photo


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    save_photos(tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def unet() -> architecture.Net:
    torch.manual_seed(0)
    net = architecture.unet()
    depth_net.prepare(net)
    return net


def latents(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, architecture.LATENT_CHANNELS, 16, 24, generator=generator)


@torch.no_grad()
def test_position_lane_never_sees_the_photo_and_the_rest_does(unet: architecture.Net) -> None:
    one, other = (depth_net.ChannelSlice(unet)(latents(seed)) for seed in (1, 2))
    assert torch.equal(
        one[:, : depth_net.POSITION_CHANNELS], other[:, : depth_net.POSITION_CHANNELS]
    )
    assert not torch.allclose(
        one[:, depth_net.POSITION_CHANNELS :], other[:, depth_net.POSITION_CHANNELS :]
    )
    alone = depth_net.ChannelSlice(unet, depth_net.POSITION_CHANNELS)(latents(3))
    assert torch.allclose(alone, one[:, : depth_net.POSITION_CHANNELS], atol=1e-5)


@torch.no_grad()
def test_stock_unet_hears_what_the_lane_computes(unet: architecture.Net) -> None:
    """The inner levels inside the whole, stock UNet give what `ChannelSlice` gives in training."""
    whole = architecture.unet().eval()
    bends = warp_attention.fit_latent_shift([smooth_photo(64, 48)], smooth_kernel())
    initial_weights.initialize(whole, bends)
    torch.manual_seed(4)
    depth_net.prepare(whole)
    heard = []
    last = list(whole.up_blocks)[-2].upsamplers[0]
    last.register_forward_hook(lambda _module, _input, made: heard.append(made))
    photo = latents(5)
    sample = torch.cat([torch.randn(2, *photo.shape[1:]), photo.expand(2, -1, -1, -1)], dim=1)
    ids = torch.tensor([[6.0, 127.0, 0.02]])
    text = torch.zeros(1, 1, architecture.CLIP_WIDTH)
    whole(sample[None], torch.tensor(1.6), text, ids)
    expected = depth_net.ChannelSlice(whole)(photo)
    assert torch.allclose(heard[0][:1], expected, atol=2e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("position", [True, False])
def test_guard_keeps_one_lane_from_changing(
    unet: architecture.Net, position: bool, tmp_path: Path
) -> None:
    depth_net.mask_gradients(unet, position)
    before = depth_net.ChannelSlice(unet)(latents(1)).detach()
    course = TrainingRun(
        tmp_path / "one.pt",
        {"inner": depth_net.inner_layers(unet)},
        lambda _: depth_net.ChannelSlice(unet)(latents(1)).float().square().mean(),
        rate=1e-3,
        half_life=100,
    )
    steps(course, 3)
    changed = (depth_net.ChannelSlice(unet)(latents(1)).detach() - before).abs() > 1e-3
    assert changed[:, : depth_net.POSITION_CHANNELS].any() == position
    if not position:
        assert changed[:, depth_net.POSITION_CHANNELS :].any()


@pytest.mark.slow
def test_settling_fits_coordinates_and_then_the_worst_of_them(unet: architecture.Net) -> None:
    def worst() -> float:
        with torch.no_grad():
            return max(float(found.abs().max()) for found in depth_net.coordinate_errors(unet))

    blank = worst()
    depth_net.fit_coordinates(unet, rounds=1)
    once = worst()
    depth_net.fit_coordinates(unet, rounds=25)
    assert worst() < 0.8 * once < 0.8 * blank


@pytest.mark.slow
def test_scene_loss_falls_for_a_scene_seen_often(
    unet: architecture.Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svd_core.training.trainer.WARM_UP_STEPS", 5)
    depth_net.mask_gradients(unet, position=False)
    kernel = smooth_kernel()
    ground = torch.linspace(-1, 1, 64)[:, None].expand(64, 96)
    one = torch.stack([*smooth_photo(96, 64), ground, -torch.ones(64, 96)])[None]
    inner = {"inner": depth_net.inner_layers(unet)}
    course = TrainingRun(
        tmp_path / "scene.pt",
        inner,
        lambda generator: depth_net.scene_loss(unet, one, kernel, generator),
        rate=1e-4,
        half_life=1000,
    )
    losses = steps(course, 40)
    assert losses[-1] < 0.3 * losses[0]


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
    photo = torch.randint(0, 256, (5, 60, 90), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    for size in ((64, 32), (32, 64), (128, 96)):
        crop = random_crop(photo, size, generator)
        assert crop.shape == (5, size[1], size[0])
        assert -1.01 <= crop.min() <= crop.max() <= 1.01


def test_sketches_lie_behind_the_photos_they_belong_to() -> None:
    name, shapes = next((n, s) for n, s in load_annotations().items() if len(s) > 3)
    photos = {name: torch.zeros(3, 40, 60, dtype=torch.uint8), "unknown": torch.zeros(3, 4, 4)}
    (found,) = with_depth_annotations(photos)
    near, drift = draw_annotations(shapes, 60, 40)
    assert torch.allclose(found[3:].float() / 255, torch.stack([near, drift]), atol=0.003)


def toy_course(path: Path, weight: float = 0.0) -> TrainingRun:
    module = torch.nn.Linear(1, 2, bias=True)
    torch.nn.init.constant_(module.weight, weight)
    torch.nn.init.constant_(module.bias, weight)

    def draw_loss(generator: torch.Generator) -> torch.Tensor:
        x = torch.randn(4, 1, generator=generator)
        return (module(x).float() - 2 * x - 1).square().mean()

    return TrainingRun(path, {"m": module}, draw_loss, rate=0.01, half_life=1000)


def steps(course: TrainingRun, count: int) -> list[float]:
    losses: list[float] = []

    class EnoughError(Exception):
        pass

    def on_step(_course: TrainingRun, loss: float) -> None:
        losses.append(loss)
        if len(losses) == count:
            raise EnoughError

    with pytest.raises(EnoughError):
        course.train(600, on_step)
    return losses


def test_training_goes_on_after_a_kill_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = steps(toy_course(tmp_path / "whole.pt"), 20)
    assert whole[-1] < whole[0]
    first = toy_course(tmp_path / "parts.pt")
    begun = steps(first, 10)
    first.save()
    steps(first, 3)  # lost: the process dies before it saves again
    again = toy_course(tmp_path / "parts.pt", weight=9.0)
    assert again.step == 10
    assert begun + steps(again, 10) == pytest.approx(whole)


def test_kernels_learn_in_any_memory_layout(tmp_path: Path) -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 8, 3, padding=1)
    wanted = torch.nn.Conv2d(3, 8, 3, padding=1).requires_grad_(False)

    def draw_loss(generator: torch.Generator) -> torch.Tensor:
        x = torch.randn(2, 3, 8, 8, generator=generator)
        return (conv(x).float() - wanted(x)).square().mean()

    course = TrainingRun(tmp_path / "c.pt", {"c": conv}, draw_loss, rate=2e-3, half_life=1000)
    losses = steps(course, 200)
    assert losses[-1] < 0.05 * losses[0]


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


@pytest.mark.slow
def test_one_clip_can_be_learnt_by_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svd_core.training.trainer.WARM_UP_STEPS", 5)
    torch.manual_seed(0)
    unet, encoder = architecture.unet(), architecture.image_encoder()
    generator = torch.Generator().manual_seed(3)
    one = torch.cat([smooth_photo(64, 32), torch.zeros(2, 32, 64)])
    batch = diffusion_loss.draw_batch([one], smooth_kernel(), generator, num_frames=3)
    batch.sigma.fill_(architecture.SIGMA_MAX)
    course = TrainingRun(
        tmp_path / "one.pt",
        {"unet": unet, "image_encoder": encoder},
        lambda _generator: diffusion_loss.diffusion_loss(unet, encoder, batch).mean(),
        rate=1e-3,
        half_life=1000,
    )
    losses = steps(course, 20)
    assert losses[-1] < 0.5 * losses[0]


def listed(photo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every photo of the folder a sketch, as the listed ones have."""
    everywhere = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
    shapes = (DepthShape((0.1, 0.9), everywhere),)
    names = load_photos(photo_folder)
    monkeypatch.setattr(
        "svd_core.training.dataset.load_annotations", lambda: dict.fromkeys(names, shapes)
    )


@pytest.mark.slow
def test_command_trains_every_course_and_exports_a_stock_checkpoint(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    listed(photo_folder, monkeypatch)
    monkeypatch.setattr("svd_core.training.train.REPORT_EVERY", 1)
    monkeypatch.setattr("svd_core.training.depth_net.fit_coordinates", lambda _unet: None)
    state, folder = tmp_path / "state", tmp_path / "svd-toy"
    common = ["--photos", str(photo_folder), "--state", str(state), "--device", "cpu"]
    for course in ("position", "scene", "decoder", "clips"):
        arguments = ["--course", course, "--dial", "tiny", "--minutes", "0.003"]
        assert main([*common, *arguments]) == 0
        assert f"{course}: step 1 " in capsys.readouterr().out
    assert main([*common, "--export", str(folder)]) == 1
    assert "train the course `position` for longer" in capsys.readouterr().err
    monkeypatch.setattr("svd_core.training.export.MAX_COORDINATE_ERROR", 1000.0)
    assert main([*common, "--export", str(folder)]) == 0
    assert json.loads((folder / "svd.json").read_text())["num_frames"] == architecture.NUM_FRAMES
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "StableVideoDiffusionPipeline"
    assert sum(f.stat().st_size for f in folder.rglob("*")) < 40e6


def test_export_before_training_says_what_is_missing(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--photos", str(photo_folder), "--state", str(tmp_path / "state")]
    assert main([*arguments, "--export", str(tmp_path / "out")]) == 1
    assert "position.pt is missing" in capsys.readouterr().err


def test_scene_before_position_says_so(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--photos", str(photo_folder), "--state", str(tmp_path / "state")]
    assert main([*arguments, "--course", "scene", "--minutes", "0"]) == 1
    assert "position" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sample_shows_what_has_been_reached(photo_folder: Path, tmp_path: Path) -> None:
    lessons = TrainingContext(tmp_path, load_photos(photo_folder), TRAINING_SIZES["tiny"], "cpu")
    draw_sample(lessons, tmp_path / "sample.png")
    with Image.open(tmp_path / "sample.png") as sheet:
        assert sheet.width == 4 * architecture.SIZES[0][0]


def test_decoder_learns_a_picture(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae, kernel = architecture.vae(), smooth_kernel()
    prepare_decoder(vae)
    photo = smooth_photo(64, 64, 5)[None]
    cells = encode(photo, kernel)
    course = TrainingRun(
        tmp_path / "d.pt",
        {"decoder": vae.decoder},
        lambda _: decoder_loss(decode(vae.decoder, cells, linear=True).float(), photo),
        rate=1e-3,
        half_life=1000,
    )
    losses = steps(course, 60)
    assert losses[-1] < 0.2 * losses[0]
