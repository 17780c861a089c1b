"""Results lie where their job's id says, and no longer than they should."""

import errno
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svd_core.errors import InvalidSettings, StorageFull, UnknownJob
from svd_core.storage import STALE_S, ResultStore
from svd_core.video import PART, write_mp4

HOUR = 3600.0


def put(store: ResultStore, name: str, size: int, age_s: float) -> Path:
    path = store.folder / name
    path.write_bytes(bytes(size))
    made = time.time() - age_s
    os.utime(path, (made, made))
    return path


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "new" / "results", keep_hours=24, keep_gb=1e-5)  # 10 kB


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
    with pytest.raises(UnknownJob, match="no job of that id") as caught:
        store.path(job_id)
    assert caught.value.status == 404


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> ResultStore:
    return ResultStore(tmp_path_factory.mktemp("results"), 1, 1)


@given(job_id=st.text() | st.from_regex(r"[./\\\w-]+"))
def test_no_text_leaves_the_folder(shared_store: ResultStore, job_id: str) -> None:
    try:
        path = shared_store.path(job_id)
    except UnknownJob:
        return
    assert path.resolve().parent == shared_store.folder.resolve()


def test_old_results_go(store: ResultStore) -> None:
    old = put(store, "old.mp4", 10, 25 * HOUR)
    new = put(store, "new.mp4", 10, 23 * HOUR)
    assert store.sweep() == [old]
    assert list(store.folder.iterdir()) == [new]


def test_above_the_limit_the_oldest_go(store: ResultStore) -> None:
    files = [put(store, f"{age}.mp4", 3000, age * HOUR) for age in range(1, 6)]
    assert set(store.sweep()) == set(files[3:])
    assert set(store.folder.iterdir()) == set(files[:3])
    assert store.sweep() == []


def test_what_is_both_old_and_too_much_is_named_once(store: ResultStore) -> None:
    old = put(store, "old.mp4", 20_000, 25 * HOUR)
    put(store, "new.mp4", 10, HOUR)
    assert store.sweep() == [old]


def test_the_newest_result_stays_however_large(store: ResultStore) -> None:
    put(store, "small.mp4", 10, 2 * HOUR)
    large = put(store, "large.mp4", 20_000, HOUR)
    store.sweep()
    assert list(store.folder.iterdir()) == [large]


def test_leftovers_of_dead_processes_go(store: ResultStore) -> None:
    dead = put(store, f"a.0123{PART}", 10, STALE_S + 60)
    busy = put(store, f"b.4567{PART}", 10, STALE_S - 60)
    assert store.sweep() == [dead]
    assert list(store.folder.iterdir()) == [busy]


def test_other_files_are_left_alone(store: ResultStore) -> None:
    files = {put(store, name, 50_000, 900 * HOUR) for name in ("notes.txt", "jobs.sqlite", "mp4")}
    assert store.sweep() == []
    assert set(store.folder.iterdir()) == files


def test_endless_keeping(tmp_path: Path) -> None:
    store = ResultStore(tmp_path, float("inf"), float("inf"))
    put(store, "old.mp4", 10, 1e6 * HOUR)
    assert store.sweep() == []


def test_two_sweeps_at_once_do_not_trip(
    store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file vanishes between being listed and being looked at."""
    put(store, "old.mp4", 10, 25 * HOUR)
    listed = list(store.folder.iterdir())
    listed[0].unlink()
    monkeypatch.setattr(Path, "iterdir", lambda _: iter(listed))
    assert store.sweep() == []


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    for folder in (tmp_path / "results", tmp_path / "results" / "deeper"):
        with pytest.raises(InvalidSettings, match="cannot be kept in .*SVD_DATA_DIR"):
            ResultStore(folder, 1, 1)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_closed_to_us_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InvalidSettings, match="Permission denied"):
        ResultStore(tmp_path, 1, 1)


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
        ResultStore(tmp_path, 1, 1)
