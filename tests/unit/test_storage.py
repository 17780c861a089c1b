"""Results lie where their job's id says, and no longer than they should."""

import errno
import os
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svd_core.errors import (
    InvalidSettings,
    StorageFull,
    UnknownJob,
)
from svd_core.media.ffmpeg import PART_SUFFIX
from svd_core.media.video import write_mp4
from svd_core.storage import STALE_S, ResultStore, bytes_of, private_folder
from tests.fakes.errors import has_code
from tests.fakes.work import moving

HOUR = 3600.0
FRAMES = moving()


def put(store: ResultStore, name: str, size: int, age_s: float) -> Path:
    path = store.folder / name
    path.write_bytes(bytes(size))
    made = time.time() - age_s
    os.utime(path, (made, made))
    return path


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "new" / "results")


def nobody(_: object) -> set[str]:
    return set()


def test_the_folder_is_made(store: ResultStore) -> None:
    assert list(store.folder.iterdir()) == []  # nothing left of trying it


def test_each_job_has_its_own_file(store: ResultStore) -> None:
    """Defect 7: files named by counting those that are there."""
    assert store.path("a-1") == store.folder / "a-1.mp4"
    ids = ["a", "b", "A-b", "1", "-", "0c9b6f0e-53a4-4b7c-9d3b-5a8f0f7b8f11"]
    assert len({store.path(job_id) for job_id in ids}) == len(ids)
    write_mp4(np.zeros((2, 64, 64, 3), np.uint8), store.path("a"), 7, "")
    assert store.path("b") != store.path("a")


@pytest.mark.parametrize(
    "job_id",
    [
        "",
        "..",
        "../a",
        "a/b",
        "/etc/passwd",
        "a.mp4",
        "a\0",
        "a\n",
        "a b",
        "a\\b",
        "é",
        "٣",
        "a" * 65,
    ],
)
def test_what_is_no_id_is_refused(store: ResultStore, job_id: str) -> None:
    with pytest.raises(UnknownJob, check=has_code("job_id_invalid")) as caught:
        store.path(job_id)
    assert caught.value.status == 404


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    return ResultStore(tmp_path_factory.mktemp("results"))


@given(job_id=st.text() | st.from_regex(r"[./\\\w-]+"))
def test_no_text_leaves_the_folder(shared_store: ResultStore, job_id: str) -> None:
    try:
        path = shared_store.path(job_id)
    except UnknownJob:
        return
    assert path.resolve().parent == shared_store.folder.resolve()


def test_a_removed_job_takes_its_video_along(store: ResultStore) -> None:
    put(store, "a.mp4", 10, 0)
    other = put(store, "b.mp4", 10, 0)
    store.remove(["a", "never-made"])
    assert list(store.folder.iterdir()) == [other]


def test_frames_come_back_as_they_were(store: ResultStore) -> None:
    write_mp4(FRAMES, store.path("a"), 7, "")
    store.put_frames("a", FRAMES)
    assert (store.frames("a") == FRAMES).all()


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_where_frames_are_gone_the_video_shows_them(store: ResultStore, damage: str) -> None:
    write_mp4(FRAMES, store.path("a"), 7, "")
    store.put_frames("a", FRAMES)
    if damage == "gone":
        store.frames_path("a").unlink()
    else:
        os.truncate(store.frames_path("a"), store.frames_path("a").stat().st_size // 2)
    found = store.frames("a")
    assert found.shape == FRAMES.shape
    assert np.abs(found.astype(int) - FRAMES).mean() < 3


def test_a_video_that_is_gone_is_told(store: ResultStore) -> None:
    with pytest.raises(UnknownJob, check=has_code("video_expired")):
        store.frames("a")


def test_frames_that_are_not_to_be_kept_are_not(tmp_path: Path) -> None:
    store = ResultStore(tmp_path, keep_frames=False)
    store.put_frames("a", FRAMES)
    assert list(tmp_path.iterdir()) == []


def test_a_video_survives_a_disk_with_no_room_for_its_frames(
    store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageFull("video_disk_full")

    monkeypatch.setattr("svd_core.storage.write_lossless", full)
    path = write_mp4(FRAMES, store.path("a"), 7, "")
    store.put_frames("a", FRAMES)
    assert list(store.folder.iterdir()) == [path]
    assert len(store.frames("a")) == len(FRAMES)


def test_videos_and_their_frames_are_counted_and_removed_together(store: ResultStore) -> None:
    path = put(store, "a.mp4", 10, 0)
    assert bytes_of(path) == 10
    put(store, "a.mkv", 1000, 0)
    assert bytes_of(path) == 1010
    store.remove(["a"])
    assert list(store.folder.iterdir()) == []
    assert bytes_of(path) == 0


def test_old_frames_that_no_job_knows_go_with_their_video_or_without(store: ResultStore) -> None:
    old = [put(store, name, 10, 25 * HOUR) for name in ("a.mp4", "a.mkv", "b.mkv")]
    known, new = put(store, "known.mkv", 10, 25 * HOUR), put(store, "new.mkv", 10, 23 * HOUR)
    assert set(store.sweep(lambda ids: {"known"} & set(ids), 24)) == set(old)
    assert set(store.folder.iterdir()) == {known, new}


def test_old_videos_that_no_job_knows_go(store: ResultStore) -> None:
    old = put(store, "old.mp4", 10, 25 * HOUR)
    known, new = put(store, "known.mp4", 10, 25 * HOUR), put(store, "new.mp4", 10, 23 * HOUR)
    assert store.sweep(lambda ids: {"known"} & set(ids), 24) == [old]
    assert set(store.folder.iterdir()) == {known, new}


def test_any_number_of_old_videos_can_be_asked_for(store: ResultStore) -> None:
    for index in range(501):
        put(store, f"{index}.mp4", 0, 25 * HOUR)
    asked: list[int] = []

    def known(ids: Collection[str]) -> Collection[str]:
        asked.append(len(ids))
        return ids if len(asked) == 1 else ()

    assert len(store.sweep(known, 24)) == 1
    assert asked == [500, 1]


def test_leftovers_of_dead_processes_go(store: ResultStore) -> None:
    dead = put(store, f"a.0123{PART_SUFFIX}", 10, STALE_S + 60)
    busy = put(store, f"b.4567{PART_SUFFIX}", 10, STALE_S - 60)
    assert store.sweep(nobody, 24) == [dead]
    assert list(store.folder.iterdir()) == [busy]


def test_other_files_are_left_alone(store: ResultStore) -> None:
    files = {put(store, name, 50_000, 900 * HOUR) for name in ("notes.txt", "jobs.sqlite", "mp4")}
    assert store.sweep(nobody, 24) == []
    assert set(store.folder.iterdir()) == files


def test_endless_keeping(store: ResultStore) -> None:
    put(store, "old.mp4", 10, 1e6 * HOUR)
    assert store.sweep(nobody, float("inf")) == []


def test_two_sweeps_at_once_do_not_trip(
    store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file vanishes between being listed and being looked at."""
    put(store, "old.mp4", 10, 25 * HOUR)
    listed = list(store.folder.iterdir())
    listed[0].unlink()
    monkeypatch.setattr(Path, "iterdir", lambda _: iter(listed))
    assert store.sweep(nobody, 24) == []


def test_private_folders_are_their_owners_alone(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    for name in ("open", "new"):
        assert private_folder(tmp_path / name).stat().st_mode & 0o777 == 0o700


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    for folder in (tmp_path / "results", tmp_path / "results" / "deeper"):
        with pytest.raises(InvalidSettings, check=has_code("folder_unwritable")):
            ResultStore(folder)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_closed_to_us_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InvalidSettings, match="Permission denied"):
        ResultStore(tmp_path)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EROFS, InvalidSettings),
        (errno.EACCES, InvalidSettings),
    ],
)
def test_a_disk_that_takes_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def refused(**_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("svd_core.storage.tempfile.TemporaryFile", refused)
    with pytest.raises(kind, match=str(tmp_path)):
        ResultStore(tmp_path)
