"""The evaluator of svd-nano: good clips meet every target, and each kind of bad clip misses one."""

import hashlib
import io
import json
import logging
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from svd_core.checkpoints.table import ASSETS
from svd_core.params import VideoParams
from svd_core.training import dataset
from svd_core.training.baselines import SyntheticCamera, true_clip
from svd_core.training.clip_metrics import (
    MAX_PSNR_DB,
    OpticalFlow,
    gradient_energy,
    measure_clip,
    psnr,
)
from svd_core.training.evaluate import main
from svd_core.training.metrics import TARGETS, Figures, compute_metrics, missed_targets, settings
from svd_core.types import Frames

EXAMPLES = sorted((ASSETS / "examples").glob("*.jpg"))
SIZE = (192, 112)
NUM_FRAMES = 6
SEEDS = (1, 2)

Film = Callable[[Image.Image, VideoParams], Frames]
"""A model of these tests: a photo and what is asked for -> frames."""


def picture(seed: int, slope: float = 1.2, size: tuple[int, int] = (320, 200)) -> Image.Image:
    """Random, with detail at every scale like a photo; a smaller `slope` is sharper."""
    generator = np.random.default_rng(seed)
    width, height = size
    down, across = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    falling = 1 / np.maximum(np.hypot(down, across), 1 / width) ** slope
    spectrum = np.fft.rfft2(generator.standard_normal((3, height, width))) * falling
    pixels = np.fft.irfft2(spectrum, (height, width)).transpose(1, 2, 0)
    pixels = 128 + 45 * pixels / pixels.std()
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def good(photo: Image.Image, params: VideoParams) -> Frames:
    """The photo under a camera, its pixels as noisy as they were asked to be."""
    frames = true_clip(photo, SyntheticCamera.random(params.seed), SIZE, params, NUM_FRAMES)
    noise = np.random.default_rng(params.seed).standard_normal(frames.shape)
    return (frames + 127.5 * params.noise_aug_strength * noise).clip(0, 255).astype(np.uint8)


def still(photo: Image.Image, params: VideoParams) -> Frames:
    return np.stack([good(photo, params)[0]] * NUM_FRAMES)


def copied_seed(photo: Image.Image, params: VideoParams) -> Frames:
    return good(photo, replace(params, seed=SEEDS[0]))


def deaf_to_bucket(photo: Image.Image, params: VideoParams) -> Frames:
    return good(photo, replace(params, motion_bucket_id=127))


def deaf_to_fps(photo: Image.Image, params: VideoParams) -> Frames:
    return good(photo, replace(params, fps=7))


def deaf_to_noise(photo: Image.Image, params: VideoParams) -> Frames:
    return good(photo, replace(params, noise_aug_strength=0.02))


def noise(photo: Image.Image, params: VideoParams) -> Frames:
    shape = (NUM_FRAMES, SIZE[1], SIZE[0], 3)
    return np.random.default_rng(params.seed).integers(0, 256, shape, dtype=np.uint8)


def blurred(photo: Image.Image, params: VideoParams) -> Frames:
    return np.stack([soft(frame) for frame in good(photo, params)])


def one_frame_blurred(photo: Image.Image, params: VideoParams) -> Frames:
    frames = good(photo, params)
    frames[3] = soft(frames[3])
    return frames


def one_jump(photo: Image.Image, params: VideoParams) -> Frames:
    """A cut to the other half of the photo's colours."""
    frames = good(photo, params)
    frames[3:] = 255 - frames[3:]
    return frames


def another_photo(photo: Image.Image, params: VideoParams) -> Frames:
    return good(picture(99), params)


def soft(frame: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(1.5)))


def fade(photo: Image.Image, params: VideoParams, slope: float, obedient: bool) -> Frames:
    """Into a picture that is the seed's own; `obedient`: as fast as a motion ought to be."""
    first = good(photo, params)[0]
    last = np.asarray(picture(params.seed + 70, slope, SIZE))
    pace = params.motion_bucket_id / 127 * 7 / params.fps if obedient else 1.0
    shares = [min(1.0, pace * t / (NUM_FRAMES - 1)) for t in range(NUM_FRAMES)]
    return np.stack([(first * (1 - s) + last * s).round().astype(np.uint8) for s in shares])


def cross_fade(photo: Image.Image, params: VideoParams) -> Frames:
    return fade(photo, params, slope=1.2, obedient=False)


def obedient_fade(photo: Image.Image, params: VideoParams) -> Frames:
    return fade(photo, params, slope=1.2, obedient=True)


def fade_to_a_sharper_picture(photo: Image.Image, params: VideoParams) -> Frames:
    return fade(photo, params, slope=0.9, obedient=True)


def judged(film: Film) -> Figures:
    """`film`'s clips of two photos, measured as those of a checkpoint are."""
    flow = OpticalFlow()
    readings = {}
    for number in (11, 12):
        photo = picture(number)
        for params in settings(SEEDS):
            begun = true_clip(photo, SyntheticCamera.random(params.seed), SIZE, params, NUM_FRAMES)[
                0
            ]
            readings[str(number), params] = measure_clip(begun, film(photo, params), flow)
    return compute_metrics(readings)


def test_a_good_model_meets_every_target() -> None:
    figures = judged(good)
    assert missed_targets(figures) == []
    assert {name for name, value in figures.items() if value is None} == {
        "vae_psnr", "seconds_per_clip", "peak_memory_mb"
    }  # fmt: skip
    assert figures["motion_order"] == figures["noise_order"] == figures["fps_order"] == 1
    assert figures["motion_ratio"] == pytest.approx(223 / 32, rel=0.25)
    assert figures["seed_variety"] == pytest.approx(2**0.5, rel=0.1)  # at right angles


@pytest.mark.parametrize(
    ("film", "missing"),
    [
        (copied_seed, {"seed_variety"}),
        (deaf_to_bucket, {"motion_order", "motion_ratio"}),
        (deaf_to_fps, {"fps_order"}),
        (deaf_to_noise, {"noise_order"}),
        (one_frame_blurred, {"sharpness_min"}),
        (one_jump, {"consistency"}),
        (still, {"motion_order", "motion_ratio", "fps_order", "seed_variety"}),
    ],
)
def test_a_model_with_one_fault_misses_what_shows_it_and_nothing_else(
    film: Film, missing: set[str]
) -> None:
    assert set(missed_targets(judged(film))) == missing


@pytest.mark.parametrize(
    ("film", "some"),
    [
        (noise, {"first_frame_psnr", "consistency", "motion_order", "noise_order"}),
        (blurred, {"sharpness", "sharpness_min"}),
        (another_photo, {"first_frame_psnr"}),
        (cross_fade, {"sharpness_min", "motion_order", "motion_ratio"}),
        (obedient_fade, {"motion_order", "motion_ratio"}),
        (fade_to_a_sharper_picture, {"motion_order", "motion_ratio"}),
    ],
)
def test_what_is_no_moving_photo_misses_what_shows_it(film: Film, some: set[str]) -> None:
    assert some <= set(missed_targets(judged(film)))


@pytest.mark.parametrize(
    ("right", "down", "zoom"),
    [(0.5, -0.2, 0), (-1.0, 0.5, 0), (0, 2.0, 0), (5.0, -2.5, 0), (0, 0, 0.02), (1.0, 1.0, -0.01)],
)
def test_a_known_flow_is_measured_within_a_tenth(right: float, down: float, zoom: float) -> None:
    """The camera moves by that many pixels, so the picture moves the other way."""
    camera = SyntheticCamera(right / SIZE[0], down / SIZE[1], zoom)
    before, after = true_clip(picture(5), camera, SIZE, VideoParams(seed=0), 2)
    y, x = np.mgrid[: SIZE[1], : SIZE[0]].astype(float)
    scale = np.exp(zoom)
    moved = np.stack(
        [
            (scale - 1) * (x - (SIZE[0] - 1) / 2) - right * scale**0.5,
            (scale - 1) * (y - (SIZE[1] - 1) / 2) - down * scale**0.5,
        ],
        axis=-1,
    )
    inner = (slice(12, -12), slice(12, -12))  # the rim shows what was not there before
    found = OpticalFlow().between(before, after)
    speed = np.linalg.norm(moved[inner], axis=-1).mean()
    assert np.linalg.norm((found - moved)[inner], axis=-1).mean() < 0.1 * speed
    reading = measure_clip(before, np.stack([before, after]), OpticalFlow())
    assert reading.speed == pytest.approx(np.linalg.norm(moved, axis=-1).mean(), rel=0.1)


def test_a_flow_too_slow_to_be_measured_well_is_at_least_seen() -> None:
    camera = SyntheticCamera(0.2 / SIZE[0], 0, 0)
    clip = true_clip(picture(5), camera, SIZE, VideoParams(seed=0), 2)
    assert measure_clip(clip[0], clip, OpticalFlow()).speed == pytest.approx(0.2, rel=0.2)


def test_what_comes_in_at_the_edge_is_not_held_against_a_clip() -> None:
    wide = np.asarray(picture(6, size=(SIZE[0] + 24, SIZE[1])))
    frames = np.stack([wide[:, at : at + SIZE[0]] for at in (24, 16, 8, 0)])
    reading = measure_clip(frames[0], frames, OpticalFlow())
    assert reading.consistency > 40
    assert reading.speed == pytest.approx(8, rel=0.1)


def test_a_clip_that_leaves_the_picture_is_not_steady() -> None:
    flow = OpticalFlow()
    away = np.full((*SIZE[::-1], 2), 1000, np.float32)
    flow.between = lambda before, after: away  # type: ignore[method-assign]
    frames = np.stack([np.asarray(picture(7, size=SIZE))] * 2)
    reading = measure_clip(frames[0], frames, flow)
    assert (reading.consistency, reading.speed) == (0.0, 0.0)


def test_a_reading_is_in_the_units_that_the_figures_name() -> None:
    photo = np.full((8, 8, 3), 100, np.uint8)
    assert psnr(photo, photo + 10) == pytest.approx(20 * np.log10(255 / 10))
    assert psnr(photo, photo) == MAX_PSNR_DB
    ramp = np.broadcast_to(np.arange(0, 80, 10, dtype=np.uint8)[None, :, None], (8, 8, 3))
    assert gradient_energy(ramp) == pytest.approx(100)
    assert gradient_energy(ramp.transpose(1, 0, 2)) == pytest.approx(100)
    green = ramp * np.array([0, 1, 0], np.uint8)
    assert gradient_energy(green) == pytest.approx(100 * 0.587**2)


def test_grain_is_no_sharpness() -> None:
    photo = np.asarray(picture(8, slope=2.0, size=SIZE))
    grainy = (photo + np.random.default_rng(0).normal(0, 8, photo.shape)).clip(0, 255)
    frames = np.stack([grainy.astype(np.uint8), soft(photo)])
    sharpness = measure_clip(photo, frames, OpticalFlow()).sharpness
    assert sharpness[0] == 1
    assert sharpness[1] < 0.9


def test_the_camera_of_known_motion_invents_nothing() -> None:
    for seed in range(50):
        for params in settings((seed,)):
            frames = true_clip(
                picture(1, size=(64, 48)), SyntheticCamera.random(seed), (32, 18), params, 25
            )
            assert frames.shape == (25, 18, 32, 3)
    with pytest.raises(ValueError, match="leaves the photo"):
        true_clip(picture(1), SyntheticCamera(0.1, 0, 0), SIZE, VideoParams(seed=0), 14)


def encoded(seed: int) -> bytes:
    """A PNG whose pixels, and so whose hash, are `seed`'s own."""
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_six_listed_photos_are_kept_from_training() -> None:
    uses = Counter(source.use for source in dataset.sources())
    assert set(uses) == {"training", "evaluation"}
    assert uses["evaluation"] == 6
    assert uses["training"] == len(list(dataset.sources("training"))) > 50
    kept = dataset.held_out_sources()
    assert len(kept) == 6 + len(list((ASSETS / "examples").iterdir()))
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in EXAMPLES} <= kept
    assert not kept & {source.sha256 for source in dataset.sources("training")}


def test_training_never_reads_a_photo_of_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, seed in (("mine.png", 1), ("innocent-name.png", 2)):
        (tmp_path / name).write_bytes(encoded(seed))
    (tmp_path / "cat.jpg").write_bytes(EXAMPLES[0].read_bytes())
    listed = dataset.Source(
        "package", "/x.png", hashlib.sha256(encoded(2)).hexdigest(), "CC0", "evaluation"
    )
    monkeypatch.setattr(dataset, "sources", lambda use=None: iter([listed]))
    with caplog.at_level(logging.WARNING):
        assert len(dataset.load_photos(tmp_path)) == 1
    assert "innocent-name.png skipped: it is kept for the evaluation" in caplog.text
    assert "cat.jpg skipped: it is kept for the evaluation" in caplog.text
    assert "mine.png" not in caplog.text


def test_only_the_photos_of_one_use_are_fetched_and_only_those_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "photos.tsv"
    rows = ["package\tpath\tsha256\tlicence\tuse"]
    for seed, use in ((1, "training"), (2, "evaluation"), (3, "evaluation")):
        digest = hashlib.sha256(encoded(seed)).hexdigest()
        rows.append(f"package{seed}\t/{seed}.png\t{digest}\tCC0\t{use}")
    table.write_text("\n".join(rows) + "\n")
    monkeypatch.setattr(dataset, "SOURCES", table)
    asked = []

    def run(*command: str, folder: str) -> None:
        asked.append(command[:3])
        if command[0] == "apt-get":
            (Path(folder) / f"{command[2]}_1.deb").touch()
        else:
            seed = int(Path(command[2]).name.removeprefix("package")[0])
            (Path(folder) / f"{seed}.png").write_bytes(encoded(seed))

    monkeypatch.setattr(dataset, "_run", run)
    second, third = dataset.sources("evaluation")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / second.file).write_bytes(encoded(2))
    (tmp_path / "folder" / third.file).write_bytes(encoded(3)[:-1])
    dataset.fetch_photos(tmp_path / "folder", "evaluation")
    assert [command for command in asked if command[0] == "apt-get"] == [
        ("apt-get", "download", "package3")
    ]
    assert (tmp_path / "folder" / third.file).read_bytes() == encoded(3)
    assert len(list((tmp_path / "folder").iterdir())) == 2


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence by which the evaluator refuses."""
    assert main(list(arguments)) == 1
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert told.err.rstrip().endswith(".")
    assert "{" not in told.out
    return told.err


def test_photos_that_are_missing_or_others_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = next(dataset.sources("evaluation"))
    assert "--photos" in refusal(capsys)
    assert first.file in refusal(capsys, "--photos", str(tmp_path))
    (tmp_path / first.file).write_bytes(encoded(1))
    assert "is not the photo" in refusal(capsys, "--photos", str(tmp_path))
    with pytest.raises(SystemExit):
        main(["--fetch"])


def test_photos_of_the_list_are_read_under_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(encoded(1)).hexdigest()
    paths = ("/a/castle.png", "/wallpapers/Glow/contents/images/2560x1600.png")
    rows = [dataset.Source("package", path, digest, "CC0", "evaluation") for path in paths]
    monkeypatch.setattr(dataset, "sources", lambda use: iter(rows))
    (tmp_path / rows[0].file).write_bytes(encoded(1))
    found = dataset.listed_photos(tmp_path)
    assert [photo.name for photo in found] == ["castle", "Glow"]
    assert found[0].opened().size == (64, 48)


def test_a_checkpoint_that_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "not a model folder" in refusal(capsys, "--quick", "--model", str(tmp_path))
    assert "svd-xt" in refusal(capsys, "--quick", "--model", "svd-xt")
    torn = shutil.copytree(ASSETS / "svd-nano", tmp_path / "torn")
    weights = torn / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert str(weights) in refusal(capsys, "--quick", "--model", str(torn))


def test_a_missing_opencv_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert "pip install opencv-python-headless" in refusal(capsys, "--quick")


def test_a_sheet_that_cannot_be_written_is_refused_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no folder" in refusal(capsys, "--quick", "--sheet", str(tmp_path / "no" / "a.png"))
    assert ".png" in refusal(capsys, "--quick", "--sheet", str(tmp_path / "sheet"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Work on tiny pictures is over before a second thread has woken up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_the_committed_checkpoint_is_judged_beside_its_bounds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    """At a fraction of its size and length, or this would take many minutes."""
    model = shutil.copytree(ASSETS / "svd-nano", tmp_path / "small")
    dials = json.loads((model / "svd.json").read_text())
    (model / "svd.json").write_text(json.dumps(dials | {"sizes": [[128, 64]], "num_frames": 2}))
    sheet = tmp_path / "sheet.png"
    assert main(["--quick", "--model", str(model), "--sheet", str(sheet)]) == 0
    told = capsys.readouterr()
    *lines, last = told.out.splitlines()
    found = json.loads(last)
    assert list(found) == ["svd-nano", "vae_only", "still", "untrained"]
    assert all(list(figures) == list(TARGETS) for figures in found.values())
    nano, upper, still, lower = found.values()
    assert {name for name, value in nano.items() if value is None} == {"seed_variety"}
    assert nano["vae_psnr"] > 20 > lower["vae_psnr"]
    assert upper["vae_psnr"] > 20
    assert nano["seconds_per_clip"] > 0
    assert nano["peak_memory_mb"] > 100
    assert still["first_frame_psnr"] == MAX_PSNR_DB
    assert "motion_order" in missed_targets(still)
    assert "first_frame_psnr" in missed_targets(lower)
    assert any(line.startswith("sharpness_min") and "0.60" in line for line in lines)
    assert "12 of svd-nano, 6 of vae_only, 6 of untrained" in told.out
    assert "clip 24 of 24" in told.err
    assert '\nuntrained: {"vae_psnr": null, "first_frame_psnr": ' in told.err
    with Image.open(sheet) as opened:
        assert opened.width > 8 * 256
