"""A video made with in-between frames: what the file holds, what is kept, and its continuation."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select, update

from svd_core.checkpoints.eta import zero_gpu_seconds
from svd_core.checkpoints.table import CHECKPOINTS
from svd_core.cli.main import main
from svd_core.errors import Cancelled
from svd_core.events import Progress, Stage, Video
from svd_core.extend import continuation_request
from svd_core.generate import generate
from svd_core.jobs.schema import JOBS
from svd_core.media.image import open_photo
from svd_core.media.recipe import Recipe
from svd_core.media.video import read_frames, read_rate
from svd_core.params import Interpolation, VideoParams, VideoRequest
from svd_core.storage import ResultStore
from svd_core.types import Frames
from svd_core.web.fal.models import read_input
from tests.fakes.work import front_queue
from tests.unit.test_extend import Off
from tests.unit.test_generate import photo, silent

PARAMS = VideoParams(seed=1, num_frames=4, interpolation="2x")


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "results")


def made(store: ResultStore, job_id: str = "first", **params: object) -> Video:
    asked = replace(PARAMS, **params)  # type: ignore[arg-type]
    return generate(VideoRequest(photo(), asked), Off(), store, job_id, silent)


def nearest(found: Frames, frames: Frames) -> list[int]:
    """Which of `frames` each picture of `found` is nearest to."""
    error = np.abs(found[:, None].astype(float) - frames[None]).mean(axis=(2, 3, 4))
    return [int(index) for index in error.argmin(axis=1)]


@pytest.mark.parametrize(
    ("interpolation", "fps", "rate", "num_frames"),
    [("off", 7, 7, 4), ("2x", 7, 14, 7), ("4x", 7, 28, 13), ("4x", 25, 100, 13)],
)
def test_the_event_says_what_the_file_holds(
    store: ResultStore, interpolation: Interpolation, fps: int, rate: int, num_frames: int
) -> None:
    video = made(store, interpolation=interpolation, fps=fps)
    assert (video.fps, video.num_frames) == (rate, num_frames)
    assert video.duration_s == pytest.approx(num_frames / rate)
    assert read_rate(video.path) == rate
    assert len(read_frames(video.path)) == num_frames
    assert video.notes == ()


def test_the_frames_kept_are_the_model_s_own(store: ResultStore) -> None:
    smooth, plain = made(store), made(store, "plain", interpolation="off")
    assert np.array_equal(store.frames("first"), store.frames("plain"))
    assert smooth.motion == plain.motion
    assert nearest(read_frames(smooth.path)[::2], store.frames("first")) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("interpolation", "rate", "used", "plays"),
    [("4x", 30, "2x", 60), ("2x", 60, "off", 60), ("4x", 100, "off", 100)],
)
def test_what_the_limit_of_the_rate_leaves_is_said(
    store: ResultStore, interpolation: Interpolation, rate: int, used: str, plays: int
) -> None:
    video = made(store, interpolation=interpolation, playback_fps=rate)
    (note,) = video.notes
    assert f"plays at {plays} fps" in note
    recipe = Recipe.read(video.path)
    assert recipe.params.interpolation == used
    assert recipe.notes == (note,)
    assert (video.fps, read_rate(video.path)) == (plays, plays)


def test_the_recipe_makes_the_same_file_again(store: ResultStore) -> None:
    video = made(store, interpolation="4x", playback_fps=9)
    params = Recipe.read(video.path).params
    assert (params.interpolation, params.rate) == ("4x", 9)
    again = generate(VideoRequest(photo(), params), Off(), store, "again", silent)
    assert np.array_equal(read_frames(again.path), read_frames(video.path))
    assert (again.fps, again.num_frames) == (video.fps, video.num_frames)


@pytest.mark.parametrize("lossless", [True, False])
def test_a_video_goes_on_from_its_own_frames(store: ResultStore, lossless: bool) -> None:
    """Not from in-between ones, also where only the mp4 is left; each clip counts as it was made,
    regardless of what the next one asks for."""
    made(store)
    if not lossless:
        store.frames_path("first").unlink()
    own = store.frames("first")
    assert len(own) == 4
    request = continuation_request(store, "first", replace(PARAMS, seed=2, interpolation="4x"))
    assert np.array_equal(np.asarray(open_photo(request.image)), own[-1])
    longer = generate(request, Off(), store, "second", silent)
    assert len(store.frames("second")) == 4 + 3
    assert (longer.num_frames, longer.fps) == (6 * 4 + 1, 28)
    recipe = Recipe.read(longer.path)
    assert [clip.params.num_frames for clip in recipe.clips] == [4, 4]
    assert [clip.params.interpolation for clip in recipe.clips] == ["2x", "4x"]

    last = continuation_request(store, "second", replace(PARAMS, seed=3, interpolation="off"))
    longest = generate(last, Off(), store, "third", silent)
    assert (longest.num_frames, longest.fps) == (10, 7)
    assert np.array_equal(store.frames("third")[:7], store.frames("second"))


def test_where_only_the_mp4_is_left_its_in_between_frames_are_passed_over(
    store: ResultStore,
) -> None:
    for interpolation in ("off", "2x", "4x"):
        made(store, interpolation, interpolation=interpolation)
        own = store.frames(interpolation)
        store.frames_path(interpolation).unlink()
        assert nearest(store.frames(interpolation), own) == [0, 1, 2, 3]


def test_interpolation_is_reported_and_can_be_stopped(store: ResultStore) -> None:
    reports: list[Progress] = []
    request = VideoRequest(photo(), replace(PARAMS, num_frames=14))
    generate(request, Off(), store, "first", reports.append)
    writing = [report for report in reports if report.stage is Stage.WRITING]
    assert len(writing) > 2
    assert [report.elapsed_s for report in writing] == sorted(r.elapsed_s for r in writing)
    assert writing[-1].remaining_s is not None
    assert writing[-1].remaining_s > 0

    def stop(progress: Progress) -> None:
        if progress.remaining_s is not None:
            raise Cancelled

    with pytest.raises(Cancelled):
        generate(request, Off(), store, "second", stop)
    assert not store.path("second").exists()
    assert not store.frames_path("second").exists()


def without_interpolation(recipe: Recipe) -> str:
    """`recipe` as it was written before there was interpolation."""
    values = json.loads(recipe.to_json()) | {"format": 3}
    for clip in (values, values["continues"]):
        if clip is not None:
            del clip["params"]["interpolation"]
    return json.dumps(values)


def test_recipes_of_format_3_are_read(store: ResultStore) -> None:
    recipe = Recipe.read(made(store).path)
    plain = recipe.with_interpolation("off")
    assert Recipe.from_json(without_interpolation(recipe)) == plain
    joined = replace(plain, continues=recipe)
    assert Recipe.from_json(without_interpolation(joined)) == replace(plain, continues=plain)


def test_a_link_of_before_is_read_and_a_new_one_carries_it() -> None:
    assert VideoParams.from_query("seed=3&fps=9").interpolation == "off"
    assert VideoParams(seed=3, interpolation="4x").to_query() == "seed=3&interpolation=4x"
    assert VideoParams.from_query("seed=3&interpolation=4x").interpolation == "4x"


def test_a_job_of_before_is_read(tmp_path: Path) -> None:
    with front_queue(tmp_path) as queue:
        job = queue.submit(VideoRequest(photo(), VideoParams(seed=3)))
        with queue.table.database.write() as connection:
            asked = json.loads(connection.scalar(select(JOBS.c.params)) or "")
            assert asked.pop("interpolation") == "off"
            connection.execute(update(JOBS).values(params=json.dumps(asked)))
        row = queue.table.get(job.id)
        assert row is not None
        assert row.params == VideoParams(seed=3)


def test_a_waiting_job_keeps_what_was_asked_for(tmp_path: Path) -> None:
    with front_queue(tmp_path) as queue:
        job = queue.submit(VideoRequest(photo(), PARAMS))
        row = queue.table.get(job.id)
        assert row is not None
        assert row.params == PARAMS


def test_the_api_takes_it_as_an_extra_field() -> None:
    body = {"image_url": "https://example.com/a.png", "interpolation": "2x"}
    assert read_input(body)[1].interpolation == "2x"
    del body["interpolation"]
    assert read_input(body)[1].interpolation == "off"


def test_the_command_line_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo.png").write_bytes(photo())
    run: Callable[..., int] = lambda *argv: main(list(argv), lambda _: Off())  # noqa: E731
    asked = ("photo.png", "-o", "out.mp4", "--num-frames", "4", "--interpolation", "2x", "--json")
    assert run(*asked) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["num_frames"], line["fps"]) == (7, 14)
    assert len(read_frames(tmp_path / "out.mp4")) == 7
    assert run("photo.png", "--from-recipe", "out.mp4", "-o", "again.mp4") == 0
    assert np.array_equal(read_frames(tmp_path / "again.mp4"), read_frames(tmp_path / "out.mp4"))
    assert run("photo.png", "--interpolation", "3x") == 2
    assert "interpolation must be one of off, 2x, 4x, not '3x'." in capsys.readouterr().err


def test_a_lent_gpu_is_kept_for_the_time_that_interpolation_takes() -> None:
    xt = CHECKPOINTS["svd-xt"]
    off, two, four = (
        zero_gpu_seconds(xt, VideoParams(interpolation=each)) for each in ("off", "2x", "4x")
    )
    assert off < two < four
    assert four - off == pytest.approx(3 * (two - off), abs=2)
    longer = zero_gpu_seconds(xt, VideoParams(interpolation="4x"), continues=True)
    assert longer > four
    assert zero_gpu_seconds(xt, VideoParams(), continues=True) == off
    fast = VideoParams(interpolation="4x", playback_fps=60)  # has none, at that rate
    assert zero_gpu_seconds(xt, fast) == off
