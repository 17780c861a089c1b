"""A video goes on where it ended: same colours, no frame twice, and a word when it drifts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svd_core.engine.engine import ModelHandle
from svd_core.errors import InvalidRequest, UnknownJob
from svd_core.events import OnProgress, Video
from svd_core.extend import continuation_request, drift, match_colours
from svd_core.generate import generate
from svd_core.media.image import open_photo
from svd_core.media.recipe import MAX_CLIPS, Recipe
from svd_core.media.video import read_frames
from svd_core.params import MAX_FRAMES, VideoParams, VideoRequest
from svd_core.storage import ResultStore
from svd_core.types import Frames, GenerationResult
from tests.fakes.errors import has_code
from tests.media.test_motion_meter import pan
from tests.unit.test_generate import PanEngine, photo, silent

PARAMS = VideoParams(seed=1, num_frames=4)


class Off(PanEngine):
    """Pans, in wrong colours, as a coder and drift make them; notes how often it was asked."""

    gain, shift, drift, asked = 1.0, 0.0, 0.0, 0

    def load(self, on_progress: OnProgress, model: str | None = None) -> ModelHandle:
        checkpoint = replace(super().load(on_progress).checkpoint, sizes=((128, 72), (72, 128)))
        return ModelHandle(checkpoint, self.generate)

    def generate(
        self, image: Image.Image, params: VideoParams, on_progress: OnProgress
    ) -> GenerationResult:
        self.asked += 1
        clip = super().generate(image, params, on_progress)
        drifted = np.linspace(0, self.drift, len(clip.frames))[:, None, None, None]
        frames = (clip.frames.astype(float) - 127) * self.gain + 127 + self.shift + drifted
        return replace(clip, frames=frames.round().clip(0, 255).astype(np.uint8))


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path)


def begun(store: ResultStore, params: VideoParams = PARAMS) -> Video:
    return generate(VideoRequest(photo(), params), Off(), store, "first", silent)


def gone_on(
    store: ResultStore, engine: Off, job_id: str = "first", to: str = "second", **params: int
) -> Video:
    request = continuation_request(store, job_id, replace(PARAMS, seed=2, **params))
    return generate(request, engine, store, to, silent)


def test_the_photo_is_the_last_frame_without_loss(store: ResultStore) -> None:
    begun(store)
    request = continuation_request(store, "first", replace(PARAMS, fit="pad", orientation="square"))
    assert (np.asarray(open_photo(request.image)) == store.frames("first")[-1]).all()
    assert request.continues == "first"
    assert (request.params.fit, request.params.orientation) == ("crop", "auto")


def test_both_clips_are_one_video_and_the_frame_they_share_is_there_once(
    store: ResultStore,
) -> None:
    begun(store)
    video = gone_on(store, Off())
    first, whole = store.frames("first"), store.frames("second")
    assert video.num_frames == len(whole) == 7
    assert (whole[:4] == first).all()
    steps = [np.abs(np.diff(whole[t : t + 2].astype(float), axis=0)).mean() for t in range(6)]
    assert max(steps) < 1.1 * min(steps)  # the pan goes on: no jump, no halt
    assert len(read_frames(video.path)) == 7


def test_the_recipe_says_what_was_continued(store: ResultStore) -> None:
    path = begun(store).path
    gone_on(store, Off(), num_frames=3)
    video = gone_on(store, Off(), "second", "third")
    recipe = Recipe.read(video.path)
    assert [clip.params.num_frames for clip in recipe.clips] == [4, 3, 4]
    assert recipe.clips[0] == Recipe.read(path)
    assert recipe.clips[0].matches(photo())
    assert not recipe.matches(photo())
    assert video.num_frames == 4 + 2 + 3


@pytest.mark.parametrize(("gain", "shift"), [(1.0, 12.0), (0.85, 0.0), (0.9, 6.0)])
def test_what_the_coder_does_to_colours_is_undone(
    store: ResultStore, gain: float, shift: float
) -> None:
    begun(store)
    engine = Off()
    engine.gain, engine.shift = gain, shift
    assert gone_on(store, engine).notes == ()
    right = gone_on(store, Off(), to="right")
    off = np.abs(store.frames("second").astype(int) - store.frames(right.path.stem))
    assert off.max() <= 4
    assert off.mean() < 1


def test_drift_is_taken_back_by_half_in_the_end_and_not_at_once() -> None:
    still = pan(0, num_frames=11)
    rise = np.linspace(0, 20, 11)
    drifted = (still + rise[:, None, None, None]).clip(0, 255).astype(np.uint8)
    found = match_colours(drifted, still[0]).mean(axis=(1, 2, 3)) - still[0].mean()
    assert found[0] == pytest.approx(0, abs=0.5)
    assert found[1] == pytest.approx(rise[1], abs=0.5)
    assert found[-1] == pytest.approx(10, abs=1)
    assert (np.diff(found) > -0.5).all()


def test_a_scene_that_changes_is_not_pressed_into_the_old_colours() -> None:
    """A red thing comes into view; the rest must not turn green for it."""
    still = pan(0, num_frames=11)
    red = still.copy()
    red[5:, 100:200, 100:200] = (220, 20, 20)
    found = match_colours(red, still[0])
    rest = np.abs(found.astype(int) - red)[:, :, 250:].mean(axis=(1, 2, 3))
    assert rest[:5].max() < 0.5
    assert rest[-1] < 4


@pytest.mark.parametrize("shade", [0, 90, 255])
def test_pictures_of_one_colour_stay_so(shade: int) -> None:
    flat = np.full((3, 32, 32, 3), shade, np.uint8)
    assert np.abs(match_colours(flat, flat[0]).astype(int) - shade).max() == 0
    noise = np.random.default_rng(0).integers(0, 256, flat.shape, dtype=np.uint8)
    assert np.isfinite(match_colours(noise, flat[0])).all()


def blurred(frame: np.ndarray) -> np.ndarray:
    small = Image.fromarray(frame).resize((64, 36), Image.Resampling.BOX)
    return np.asarray(small.resize((frame.shape[1], frame.shape[0]), Image.Resampling.BICUBIC))


def test_drift_is_told() -> None:
    clip: Frames = pan(0.3)
    assert drift(clip, clip[-1]) == ()
    (soft,) = drift(clip, blurred(np.asarray(pan(0, num_frames=1)[0])))
    assert soft.code == "detail_lost"
    (shifted,) = drift(clip, (clip[-1] * 0.8 + 50).astype(np.uint8))
    assert shifted.code == "colours_shifted"
    assert 0.05 < float(str(shifted.values["share"])) < 0.2


def test_drift_is_a_note_of_the_video(store: ResultStore) -> None:
    begun(store)
    engine = Off()
    engine.drift = 60.0
    (note,) = gone_on(store, engine).notes
    assert "colours" in note
    assert Recipe.read(store.path("second")).notes == (note,)


def test_the_length_is_limited_before_anything_is_made(store: ResultStore) -> None:
    begun(store, replace(PARAMS, num_frames=50))
    engine = Off()
    gone_on(store, engine, num_frames=50)
    gone_on(store, engine, "second", "third", num_frames=50)
    engine.asked = 0
    with pytest.raises(
        InvalidRequest, check=has_code("frames_exceeded", total=197, most=MAX_FRAMES)
    ) as caught:
        continuation_request(store, "third", replace(PARAMS, num_frames=50))
    assert caught.value.field == "continues"
    request = continuation_request(store, "third", replace(PARAMS, num_frames=None))
    with pytest.raises(
        InvalidRequest, check=has_code("frames_exceeded", total=161)
    ):  # only the model knows how many
        generate(request, engine, store, "fourth", silent)
    assert engine.asked == 0


def test_only_so_many_clips_are_joined(store: ResultStore) -> None:
    begun(store)
    names = ["first", *(f"clip-{n}" for n in range(2, MAX_CLIPS + 1))]
    for before, name in zip(names, names[1:], strict=False):
        gone_on(store, Off(), before, name, num_frames=2)
    with pytest.raises(InvalidRequest, check=has_code("clips_exceeded", clips=MAX_CLIPS)):
        continuation_request(store, names[-1], PARAMS)


def test_another_models_size_is_told_before_anything_is_made(store: ResultStore) -> None:
    class Larger(Off):
        def load(self, on_progress: OnProgress, model: str | None = None) -> ModelHandle:
            checkpoint = replace(super().load(on_progress).checkpoint, sizes=((1024, 576),))
            return ModelHandle(checkpoint, self.generate)

    begun(store)
    engine = Larger()
    with pytest.raises(
        InvalidRequest,
        check=has_code("size_differs", width=128, height=72, new_width=1024, new_height=576),
    ):
        gone_on(store, engine)
    assert engine.asked == 0


def test_a_video_that_is_gone_cannot_be_continued(store: ResultStore) -> None:
    with pytest.raises(UnknownJob, check=has_code("video_expired")):
        continuation_request(store, "first", PARAMS)
    begun(store)
    request = continuation_request(store, "first", PARAMS)
    store.remove(["first"])
    with pytest.raises(UnknownJob, check=has_code("video_expired")):
        generate(request, Off(), store, "second", silent)


def test_where_the_frames_are_gone_the_video_is_continued_as_it_shows(store: ResultStore) -> None:
    begun(store)
    store.frames_path("first").unlink()
    image = open_photo(continuation_request(store, "first", PARAMS).image)
    assert (np.asarray(image) == read_frames(store.path("first"))[-1]).all()
    assert gone_on(store, Off()).num_frames == 7
