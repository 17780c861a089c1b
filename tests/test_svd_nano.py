"""The shipped checkpoint, through the product's own path: a photo in, the photo moving out."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svd_core.engine import SvdEngine
from svd_core.generate import generate
from svd_core.image import frame_photo, open_photo
from svd_core.models import ASSETS
from svd_core.nano.photos import sources
from svd_core.params import VideoParams, VideoRequest
from svd_core.storage import ResultStore
from svd_core.video import read_frames

FOLDER = ASSETS / "svd-nano"
EXAMPLES = sorted((ASSETS / "examples").glob("*.jpg"))
PARAMS = VideoParams(seed=7, motion_bucket_id=127)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def best_shift(before: np.ndarray, after: np.ndarray, reach: int = 24) -> tuple[int, int]:
    """Whole pixels (x, y) by which `before` has to move to look most like `after`."""
    small = [frame[..., :3].mean(axis=-1) for frame in (before, after)]
    inner = small[1][reach:-reach, reach:-reach]
    tried = {
        (x, y): np.mean(
            (np.roll(small[0], (y, x), (0, 1))[reach:-reach, reach:-reach] - inner) ** 2
        )
        for x in range(-reach, reach + 1, 2)
        for y in range(-reach, reach + 1, 2)
    }
    return min(tried, key=lambda shift: tried[shift])


@pytest.fixture(scope="module")
def engine() -> SvdEngine:
    return SvdEngine("svd-nano", "auto", fall_back=False)


@pytest.fixture(scope="module")
def clip(engine: SvdEngine, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    request = VideoRequest((ASSETS / "examples" / "cat.jpg").read_bytes(), PARAMS)
    store = ResultStore(tmp_path_factory.mktemp("results"))
    video = generate(request, engine, store, "job", lambda _progress: None)
    return read_frames(video.path)


@pytest.mark.slow
def test_first_frame_is_the_photo(clip: np.ndarray) -> None:
    photo = open_photo((ASSETS / "examples" / "cat.jpg").read_bytes())
    framed = np.asarray(frame_photo(photo, [(512, 288)], PARAMS).image)
    assert clip.shape == (14, 288, 512, 3)
    assert psnr(clip[0], framed) > 26


@pytest.mark.slow
def test_a_person_sees_the_photo_move_and_it_stays_sharp(clip: np.ndarray) -> None:
    x, y = best_shift(clip[0], clip[-1])
    assert max(abs(x), abs(y)) >= 6
    half_x, half_y = best_shift(clip[0], clip[7])
    assert abs(half_x) < abs(x) or abs(half_y) < abs(y)
    energy = [np.abs(np.diff(frame.astype(float), axis=1)).mean() for frame in clip]
    assert min(energy) > 0.6 * energy[0]


@pytest.mark.slow
def test_same_seed_same_frames_other_seed_other_motion(engine: SvdEngine) -> None:
    photo = Image.open(ASSETS / "examples" / "cat.jpg").convert("RGB")
    checkpoint = engine.load(lambda _progress: None)
    framed = frame_photo(photo, checkpoint.sizes, PARAMS).image

    def frames(seed: int) -> np.ndarray:
        params = VideoParams(seed=seed, num_frames=4, motion_bucket_id=255, fps=5)
        return engine.generate(framed, params, lambda _progress: None).frames

    first = frames(1)
    assert np.array_equal(first, frames(1))
    assert best_shift(first[0], first[-1]) != best_shift(frames(2)[0], frames(2)[-1])


def test_checkpoint_is_stock_small_and_says_what_it_is() -> None:
    diffusers = pytest.importorskip("diffusers")
    pipeline = diffusers.StableVideoDiffusionPipeline.from_pretrained(FOLDER)
    assert type(pipeline.unet).__name__ == "UNetSpatioTemporalConditionModel"
    assert type(pipeline.vae).__name__ == "AutoencoderKLTemporalDecoder"
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 40 * 2**20
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
    from svd_core.recipe import Recipe

    recipe = Recipe.read(path.with_suffix(".mp4"))
    assert recipe.model == "svd-nano"
    assert recipe.matches(path.read_bytes())
