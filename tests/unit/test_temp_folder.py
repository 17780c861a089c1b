"""Temporary files are deleted by age and total size, and with the files they are copies of."""

import os
import shutil
import time
from pathlib import Path

import pytest

from svd_core import temp_folder
from svd_core.temp_folder import TempFolder, export_path, remove_copies

HOUR = 3600.0


@pytest.fixture
def temp(tmp_path: Path) -> TempFolder:
    return TempFolder(tmp_path / "data" / "tmp", keep_s=24 * HOUR, most_bytes=1000)


def written(temp: TempFolder, name: str, size: int = 10) -> Path:
    path = temp.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return path


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = time.time() + seconds
    monkeypatch.setattr(temp_folder.time, "time", lambda: now)


def test_the_folder_is_its_owners_alone(temp: TempFolder) -> None:
    assert temp.folder.stat().st_mode & 0o777 == 0o700


def test_old_files_go_with_their_folders(temp: TempFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were left by a server that was killed: only the folder knows of them."""
    old = [written(temp, name) for name in ("a/photo.jpg", "made/b/videos.zip", "tmp1234")]
    later(monkeypatch, 23 * HOUR)
    assert temp.sweep() == []
    later(monkeypatch, 25 * HOUR)
    assert set(temp.sweep()) == set(old)
    later(monkeypatch, 50 * HOUR)
    temp.sweep()
    assert list(temp.folder.iterdir()) == []


def test_a_copy_of_something_old_is_young(temp: TempFolder, tmp_path: Path) -> None:
    original = tmp_path / "video.mp4"
    original.write_bytes(b"video")
    os.utime(original, (time.time() - 100 * HOUR,) * 2)
    shutil.copy2(original, temp.folder / "copy.mp4")
    assert temp.sweep() == []


def test_where_all_are_too_much_the_oldest_go(temp: TempFolder) -> None:
    paths = []
    for n in range(5):
        paths.append(written(temp, f"{n}/photo.jpg", 300))
        time.sleep(0.02)  # as fine as the clocks of disks are
    assert set(temp.sweep()) == set(paths[:2])
    assert temp.sweep() == []


def test_an_empty_folder_that_is_about_to_be_used_stays(
    temp: TempFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temp.folder / "new").mkdir()
    temp.sweep()
    assert (temp.folder / "new").is_dir()
    later(monkeypatch, 2 * temp_folder.EMPTY_S)
    temp.sweep()
    assert not (temp.folder / "new").exists()


def test_links_are_removed_and_not_followed(
    temp: TempFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(bytes(5000))
    (temp.folder / "link").symlink_to(outside)
    assert temp.sweep() == []
    later(monkeypatch, 25 * HOUR)
    temp.sweep()
    assert (outside / "file").exists()
    assert not (temp.folder / "link").is_symlink()


def test_a_file_for_the_same_key_takes_the_place_of_the_earlier_one(temp: TempFolder) -> None:
    first = export_path(temp.folder, "0123", "videos.zip")
    first.write_bytes(b"1")
    assert export_path(temp.folder, "0123", "videos.zip") == first
    assert export_path(temp.folder, "4567", "videos.zip") != first


def test_copies_go_with_what_they_are_copies_of(temp: TempFolder) -> None:
    export = export_path(temp.folder, "0123", "svd-7.gif")
    export.write_bytes(b"gif")
    copy, other = written(temp, "f00d/0123.mp4"), written(temp, "f00d/4567.mp4")
    remove_copies(temp.folder, "0123", "no such key")
    assert not export.exists()
    assert not copy.exists()
    assert other.exists()
