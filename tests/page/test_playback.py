"""Playback files: the same video with in-between frames, made once and gone with its video."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from svd_core import storage
from svd_core.errors import GenerationFailed, InvalidRequest, UnknownJob
from svd_core.generate import generate
from svd_core.jobs import JobQueue, Retention
from svd_core.media.export import Export, export
from svd_core.media.recipe import Recipe
from svd_core.media.video import read_comment, read_frames, read_rate, write_mp4
from svd_core.params import Interpolation, VideoParams, VideoRequest
from svd_core.storage import ResultStore, bytes_of
from svd_core.types import Frames
from tests.fakes.errors import has_code
from tests.fakes.work import front_queue, moving
from tests.jobs.test_retention import made as ended_job
from tests.unit.test_extend import Off
from tests.unit.test_generate import photo, silent

HOUR = 3600.0


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "results")


def made(store: ResultStore, job_id: str = "a", interpolation: Interpolation = "off") -> Path:
    params = VideoParams(seed=1, num_frames=4, fps=8, interpolation=interpolation)
    return generate(VideoRequest(photo(), params), Off(), store, job_id, silent).path


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The paths of the files that were exported, as it happened."""
    paths: list[Path] = []

    def counted(frames: Frames, wanted: Export, path: Path, comment: str) -> Path:
        paths.append(path)
        return export(frames, wanted, path, comment)

    monkeypatch.setattr(storage, "export", counted)
    return paths


@pytest.mark.parametrize("delivered", ["off", "2x", "4x"])
@pytest.mark.parametrize(
    ("interpolation", "rate", "num_frames"), [("off", 8, 4), ("2x", 16, 7), ("4x", 32, 13)]
)
def test_a_playback_file_has_the_interpolation_asked_for(
    store: ResultStore,
    delivered: Interpolation,
    interpolation: Interpolation,
    rate: int,
    num_frames: int,
) -> None:
    video = made(store, interpolation=delivered)
    path = store.playback("a", interpolation)
    assert (path == video) == (interpolation == delivered)
    assert (read_rate(path), len(read_frames(path))) == (rate, num_frames)
    recipe = Recipe.read(video)
    assert Recipe.read(path) == recipe.with_interpolation(interpolation)
    assert Recipe.read(video).params.interpolation == delivered
    assert np.array_equal(read_frames(path), read_frames(made(store, "b", interpolation)))


def test_it_is_made_once_even_if_many_ask_at_a_time(
    store: ResultStore, exports: list[Path]
) -> None:
    made(store)
    with ThreadPoolExecutor(6) as pool:
        paths = set(pool.map(lambda each: store.playback("a", each), ["2x", "4x"] * 6))
    assert {path.name for path in paths} == {"a.2x.mp4", "a.4x.mp4"}
    assert sorted(exports) == sorted(paths)
    assert store.playback("a", "2x") in paths
    assert len(exports) == 2


def test_a_rate_that_allows_no_more_frames_leaves_the_video(store: ResultStore) -> None:
    video = write_mp4(moving(), store.path("a"), 60, "")
    assert store.playback("a", "4x") == video
    write_mp4(moving(), store.path("b"), 30, "")
    assert read_rate(store.playback("b", "4x")) == 60


@pytest.mark.parametrize("comment", ["", "{}", "Made with a camera"])
@pytest.mark.parametrize("lossless", [True, False])
def test_a_video_without_recipe_or_frames_can_be_played_too(
    store: ResultStore, comment: str, lossless: bool
) -> None:
    write_mp4(moving(), store.path("a"), 9, comment)
    if lossless:
        store.put_frames("a", moving())
    path = store.playback("a", "2x")
    assert (read_rate(path), len(read_frames(path))) == (18, 15)
    assert (read_comment(path) or "") == comment


def test_where_only_an_interpolated_mp4_is_left_its_own_frames_are_taken(
    store: ResultStore,
) -> None:
    made(store, interpolation="2x")
    store.frames_path("a").unlink()
    assert len(read_frames(store.playback("a", "off"))) == 4
    assert len(read_frames(store.playback("a", "4x"))) == 13


@pytest.mark.parametrize("job_id", ["gone", "../a", "damaged"])
def test_what_is_not_there_cannot_be_played(store: ResultStore, job_id: str) -> None:
    (store.folder / "damaged.mp4").write_bytes(b"half of a video")
    with pytest.raises(UnknownJob):
        store.playback(job_id, "2x")


def test_other_values_are_refused(store: ResultStore) -> None:
    made(store)
    with pytest.raises(InvalidRequest) as caught:
        store.playback("a", "../../x")  # type: ignore[arg-type]
    assert caught.value.field == "interpolation"


def test_a_failure_leaves_nothing_and_the_next_call_tries_again(
    store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(store)
    before = sorted(store.folder.iterdir())

    def failing(*_: object) -> Path:
        raise GenerationFailed("interpolation_failed")

    with monkeypatch.context() as patched:
        patched.setattr(storage, "export", failing)
        with pytest.raises(GenerationFailed):
            store.playback("a", "2x")
    assert sorted(store.folder.iterdir()) == before
    assert store.playback("a", "2x").is_file()


def test_a_video_that_is_removed_meanwhile_leaves_no_playback_file(
    store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(store)

    def slow(frames: Frames, wanted: Export, path: Path, comment: str) -> Path:
        store.remove(["a"])
        return export(frames, wanted, path, comment)

    monkeypatch.setattr(storage, "export", slow)
    with pytest.raises(UnknownJob, check=has_code("video_expired")):
        store.playback("a", "2x")
    assert list(store.folder.iterdir()) == []


def test_playback_files_are_counted_and_removed_with_their_video(store: ResultStore) -> None:
    video, other = made(store), made(store, "b")
    alone = bytes_of(video)
    extra = [store.playback("a", each).stat().st_size for each in ("2x", "4x")]
    assert store.playback_bytes() == {"a": sum(extra)}
    assert bytes_of(video) == alone + sum(extra)
    store.remove(["a"])
    assert sorted(store.folder.iterdir()) == [store.frames_path("b"), other]
    assert store.playback_bytes() == {}


def test_those_that_no_job_knows_are_swept_away(store: ResultStore) -> None:
    names = ("old.mp4", "old.2x.mp4", "alone.4x.mp4", "known.2x.mp4", "young.2x.mp4")
    for name in names:
        age = 1 if name.startswith("young") else 25
        (store.folder / name).write_bytes(b"1")
        then = time.time() - age * HOUR
        os.utime(store.folder / name, (then, then))
    asked: set[str] = set()

    def known(ids: object) -> set[str]:
        asked.update(ids)  # type: ignore[call-overload]
        return {"known"}

    gone = store.sweep(known, 24)
    assert {path.name for path in gone} == {"old.mp4", "old.2x.mp4", "alone.4x.mp4"}
    assert asked == {"old", "alone", "known"}


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    with front_queue(tmp_path) as queue:
        yield queue


def test_retention_counts_playback_files(queue: JobQueue, store: ResultStore) -> None:
    """They come after the job has ended, so its row does not know their bytes."""
    retention = Retention(queue.table, store, keep_hours=24, keep_gb=1e-5)  # 10 kB
    old, new = ended_job(retention, queue, 60, 2000), ended_job(retention, queue, 0, 2000)
    assert retention.sweep() == []
    (store.folder / f"{new.id}.2x.mp4").write_bytes(bytes(3000))
    (store.folder / f"{old.id}.4x.mp4").write_bytes(bytes(4000))
    assert retention.sweep() == [old.id]
    names = {path.name for path in store.folder.iterdir()}
    assert names == {f"{new.id}.mp4", f"{new.id}.mkv", f"{new.id}.2x.mp4"}


@pytest.mark.parametrize("format", ["mp4", "gif", "webp", "png"])
def test_an_export_says_what_interpolation_it_has(store: ResultStore, format: str) -> None:
    video = made(store, interpolation="4x")
    for interpolation in ("off", "2x", "4x"):
        wanted = Export(format=format, fps=20, interpolation=interpolation)  # type: ignore[arg-type]
        path = store.export("a", wanted, store.folder.parent / f"out{wanted.suffix}")
        recipe = Recipe.read(path)
        assert recipe.params.interpolation == wanted.effective_interpolation
        assert recipe == Recipe.read(video).with_interpolation(wanted.effective_interpolation)
