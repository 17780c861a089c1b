"""The shipped checkpoint, through the product's own path: a photo in, the photo moving out."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline, UNetSpatioTemporalConditionModel
from PIL import Image

from svd_core.checkpoints.table import ASSETS
from svd_core.engine.engine import SvdEngine
from svd_core.generate import generate
from svd_core.media.image import frame_photo, open_photo
from svd_core.media.video import read_frames
from svd_core.params import VideoParams, VideoRequest
from svd_core.storage import ResultStore
from svd_core.training import architecture, depth_net, initial_weights
from svd_core.training.clip_metrics import OpticalFlow
from svd_core.training.dataset import sources
from svd_core.training.export import MAX_COORDINATE_ERROR
from svd_core.training.warp_attention import KNOTS

FOLDER = ASSETS / "svd-nano"
EXAMPLES = sorted((ASSETS / "examples").glob("*.jpg"))
PARAMS = VideoParams(seed=7, motion_bucket_id=127)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def moved(before: np.ndarray, after: np.ndarray) -> float:
    """Mean length of the optical flow, in pixels."""
    return float(np.linalg.norm(OpticalFlow().between(before, after), axis=-1).mean())


@pytest.fixture(scope="module")
def engine() -> SvdEngine:
    return SvdEngine("svd-nano", "auto", fallback=False)


@pytest.fixture(scope="module")
def clip(engine: SvdEngine, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    request = VideoRequest((ASSETS / "examples" / "cat.jpg").read_bytes(), PARAMS)
    store = ResultStore(tmp_path_factory.mktemp("results"))
    video = generate(request, engine, store, "job", lambda _progress: None)
    return read_frames(video.path)


def test_first_frame_is_the_photo(clip: np.ndarray) -> None:
    photo = open_photo((ASSETS / "examples" / "cat.jpg").read_bytes())
    framed = np.asarray(frame_photo(photo, [(512, 288)], PARAMS).image)
    assert clip.shape == (14, 288, 512, 3)
    assert psnr(clip[0], framed) > 30


def test_a_person_sees_the_photo_move_and_it_stays_sharp(clip: np.ndarray) -> None:
    assert moved(clip[0], clip[-1]) > 1.5 * moved(clip[0], clip[7]) > 3
    energy = [np.abs(np.diff(frame.astype(float), axis=1)).mean() for frame in clip]
    assert min(energy) > 0.75 * energy[0]


@pytest.mark.slow
def test_same_seed_same_frames_other_seed_other_motion(engine: SvdEngine) -> None:
    photo = Image.open(ASSETS / "examples" / "cat.jpg").convert("RGB")
    checkpoint = engine.load(lambda _progress: None).checkpoint
    framed = frame_photo(photo, checkpoint.sizes, PARAMS).image

    def frames(seed: int) -> np.ndarray:
        params = VideoParams(seed=seed, num_frames=3, motion_bucket_id=255, fps=5)
        return engine.generate(framed, params, lambda _progress: None).frames

    first, other = frames(1), frames(2)
    assert np.array_equal(first, frames(1))
    assert psnr(first[0], other[0]) > 35
    assert moved(first[-1], other[-1]) > 1


@pytest.mark.slow
def test_plain_diffusers_makes_the_same_frames(engine: SvdEngine) -> None:
    """The app leaves out layers that add nothing, and decodes in half precision where it may."""
    photo = Image.open(ASSETS / "examples" / "cat.jpg").convert("RGB")
    checkpoint = engine.load(lambda _progress: None).checkpoint
    framed = frame_photo(photo, checkpoint.sizes, PARAMS).image
    params = VideoParams(seed=5, num_frames=2, motion_bucket_id=255, fps=5)
    ours = engine.generate(framed, params, lambda _progress: None).frames
    pipeline = StableVideoDiffusionPipeline.from_pretrained(FOLDER)
    stock = pipeline(
        framed,
        width=framed.width,
        height=framed.height,
        num_frames=2,
        num_inference_steps=checkpoint.num_inference_steps,
        min_guidance_scale=1.0,
        max_guidance_scale=1.0,
        fps=5,
        motion_bucket_id=255,
        decode_chunk_size=2,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).frames[0]
    assert np.abs(ours - stock * 255).max() < 4


def test_coordinates_are_right_in_every_cell_of_every_size() -> None:
    unet = UNetSpatioTemporalConditionModel.from_pretrained(FOLDER / "unet")
    with torch.no_grad():
        worst = max(float(error.abs().max()) for error in depth_net.coordinate_errors(unet))
    assert worst < MAX_COORDINATE_ERROR


def test_checkpoint_is_stock_small_and_says_what_it_is() -> None:
    pipeline = StableVideoDiffusionPipeline.from_pretrained(FOLDER)
    assert type(pipeline.unet).__name__ == "UNetSpatioTemporalConditionModel"
    assert type(pipeline.vae).__name__ == "AutoencoderKLTemporalDecoder"
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 40e6
    card = (FOLDER / "README.md").read_text()
    assert "demonstration" in card
    for package in {source.package for source in sources()}:
        assert package in card


def test_examples_come_in_three_shapes_with_their_videos_and_credits() -> None:
    credit = (ASSETS / "examples" / "CREDITS.md").read_text()
    shapes = set()
    trained = {source.sha256 for source in sources()}
    for path in EXAMPLES:
        data = path.read_bytes()
        width, height = Image.open(io.BytesIO(data)).size
        shapes.add((width > 1.1 * height) - (height > 1.1 * width))
        assert path.name in credit
        assert path.with_suffix(".mp4").exists()
        assert hashlib.sha256(data).hexdigest() not in trained
    assert len(EXAMPLES) >= 6
    assert shapes == {-1, 0, 1}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_videos_play_and_were_made_by_svd_nano(path: Path) -> None:
    from svd_core.media.recipe import Recipe

    recipe = Recipe.read(path.with_suffix(".mp4"))
    assert recipe.model == "svd-nano"
    assert recipe.matches(path.read_bytes())


def test_the_written_layers_are_those_of_the_code() -> None:
    shipped = UNetSpatioTemporalConditionModel.from_pretrained(FOLDER / "unet")
    written = architecture.unet()
    nothing = torch.zeros(
        len(KNOTS), architecture.LATENT_CHANNELS, 2 * architecture.LATENT_CHANNELS
    )
    initial_weights.initialize(written, (nothing, nothing))
    nets = (written, shipped)
    ours, theirs = (dict(net.up_blocks[-1].attentions.named_parameters()) for net in nets)
    last = "1.temporal_transformer_blocks.1."
    learnt = ("1.transformer_blocks.1.ff.", f"{last}ff_in.", f"{last}ff.")  # the bends
    compared = [
        name for name in ours if "transformer_blocks" in name and not name.startswith(learnt)
    ]
    assert len(compared) > 100
    for name in compared:
        assert torch.allclose(theirs[name], ours[name], rtol=1e-5), name
