"""The path from a photo to a video, with an engine whose frames are known."""

import io
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svd_core.errors import StorageFull
from svd_core.events import OnProgress, Progress, Stage
from svd_core.generate import generate
from svd_core.media.image import frame_photo, open_photo
from svd_core.params import VideoParams, VideoRequest
from svd_core.storage import ResultStore, bytes_of
from svd_core.types import Frames, GenerationResult
from tests.conftest import StillEngine


def photo(width: int = 320, height: int = 180) -> bytes:
    """Soft shapes of several sizes."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 9) + np.cos(y / 14), np.cos(x / 23 + y / 17), np.sin((x + y) / 31)]
    shades = 127 + 60 * np.stack(waves, -1)
    file = io.BytesIO()
    Image.fromarray(shades.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@dataclass
class PanEngine(StillEngine):
    """The photo, `step` pixels further to the left in each frame."""

    step: int = 2
    peak_memory: int | None = 3 * 10**9

    def generate(
        self, image: Image.Image, params: VideoParams, on_progress: OnProgress
    ) -> GenerationResult:
        on_progress(Progress(stage=Stage.DENOISING, step=1, total=1))
        first = np.asarray(image, np.uint8)
        moved = [np.roll(first, -self.step * t, axis=1) for t in range(params.num_frames or 14)]
        return GenerationResult(np.stack(moved), params, peak_memory=self.peak_memory)


def silent(_: Progress) -> None:
    pass


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path)


def expected(params: VideoParams, engine: PanEngine) -> Frames:
    sizes = engine.load(silent).checkpoint.sizes
    framed = frame_photo(open_photo(photo()), sizes, params)
    return engine.generate(framed.image, params, silent).frames


def test_the_frames_are_kept_as_they_were_made(store: ResultStore) -> None:
    params, engine = VideoParams(seed=1, num_frames=5), PanEngine()
    video = generate(VideoRequest(photo(), params), engine, store, "job", silent)
    assert (store.frames("job") == expected(params, engine)).all()
    assert sorted(store.folder.iterdir()) == [store.frames_path("job"), video.path]
    assert bytes_of(video.path) > video.path.stat().st_size


@pytest.mark.parametrize(("step", "motion"), [(0, "still"), (2, "gentle"), (12, "lively")])
def test_a_video_tells_how_much_moves_and_what_it_took(
    store: ResultStore, step: int, motion: str
) -> None:
    request = VideoRequest(photo(), VideoParams(num_frames=6))
    video = generate(request, PanEngine(step), store, "job", silent)
    assert (video.motion, video.peak_memory) == (motion, 3 * 10**9)


def test_a_video_that_cannot_be_written_leaves_no_frames(
    store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageFull("video_disk_full")

    # The path "svd_core.generate.write_mp4" would look for it at the function of that name.
    monkeypatch.setattr(import_module("svd_core.generate"), "write_mp4", full)
    with pytest.raises(StorageFull):
        generate(VideoRequest(photo(), VideoParams()), PanEngine(), store, "job", silent)
    assert list(store.folder.iterdir()) == []
