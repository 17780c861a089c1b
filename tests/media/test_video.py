"""What is written plays in browsers, shows the frames given, and never half exists."""

import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from svd_core.errors import GenerationFailed, InvalidRequest, StorageFull
from svd_core.media import ffmpeg
from svd_core.media.video import (
    read_comment,
    read_frames,
    read_lossless,
    read_rate,
    write_lossless,
    write_mp4,
)
from svd_core.types import Frames
from tests.fakes.errors import has_code

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def moving(width: int = 96, height: int = 64, num_frames: int = 6) -> Frames:
    """Soft colours that drift."""
    t, y, x = np.mgrid[0:num_frames, 0:height, 0:width]
    waves = [np.sin((x + 4 * t) / 9), np.cos((y + 2 * t) / 7), np.sin((x + y + 3 * t) / 11)]
    return (127 + 100 * np.stack(waves, -1)).astype(np.uint8)


def noise(width: int = 320, height: int = 192, num_frames: int = 8) -> Frames:
    """Does not compress."""
    shape = (num_frames, height, width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def described(path: Path) -> str:
    """What ffmpeg says of the file's stream."""
    done = subprocess.run([FFMPEG, "-i", path], capture_output=True, text=True)
    return next(line for line in done.stderr.splitlines() if "Video:" in line)


def test_frames_survive(tmp_path: Path) -> None:
    frames = moving()
    found = read_frames(write_mp4(frames, tmp_path / "a.mp4", 7, "note"))
    assert (found.shape, found.dtype) == (frames.shape, np.uint8)
    # Mean error per frame: smaller than to any other frame, so order and number are kept too.
    error = np.abs(found[:, None].astype(float) - frames[None]).mean(axis=(2, 3, 4))
    assert error.argmin(axis=1).tolist() == list(range(len(frames)))
    assert error.diagonal().max() < 6  # most of it the colours at half size


@pytest.mark.parametrize("fps", [1, 7, 24, 30, 60, 100])
def test_the_rate_is_read_as_it_was_written(tmp_path: Path, fps: int) -> None:
    assert read_rate(write_mp4(moving(), tmp_path / "a.mp4", fps, "")) == fps


def test_frames_are_written_wherever_their_bytes_lie(tmp_path: Path) -> None:
    frames = moving()
    for index, view in enumerate((frames[::-1], frames[:, ::-1], frames[:, 1:-1, 3:])):
        kept = write_lossless(view, tmp_path / f"{index}.mkv")
        assert np.array_equal(read_lossless(kept), view)


@pytest.mark.parametrize(("width", "height"), [(96, 64), (33, 35), (320, 192)])
def test_without_loss_means_without_loss(tmp_path: Path, width: int, height: int) -> None:
    frames = noise(width, height)
    path = write_lossless(frames, tmp_path / "a.mkv")
    assert (read_lossless(path) == frames).all()
    assert list(tmp_path.iterdir()) == [path]


def test_soft_frames_take_less_room_without_loss(tmp_path: Path) -> None:
    frames = moving(320, 192)
    assert write_lossless(frames, tmp_path / "a.mkv").stat().st_size < frames.nbytes / 3


@pytest.mark.parametrize("at", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["bit", "cut"])
def test_frames_damaged_on_disk_are_not_taken_for_frames(
    tmp_path: Path, kind: str, at: float
) -> None:
    path = write_lossless(noise(), tmp_path / "a.mkv")
    data = bytearray(path.read_bytes())
    place = int(at * len(data))
    data[place] ^= 1
    path.write_bytes(data if kind == "bit" else data[:place])
    with pytest.raises(InvalidRequest, check=has_code("video_unreadable")):
        read_lossless(path)


@pytest.mark.parametrize(
    "colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 30, 90), (9, 9, 9)]
)
def test_colours_survive(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    """BT.601 read as BT.709, or the reverse, moves pure green by more than 20."""
    frames = np.full((2, 64, 64, 3), colour, np.uint8)
    found = read_frames(write_mp4(frames, tmp_path / "a.mp4", 7, ""))
    assert np.abs(found.astype(int) - frames).max() <= 2


def test_browsers_can_play_it(tmp_path: Path) -> None:
    """Defect 9: mp4v files, which browsers do not play."""
    found = described(write_mp4(moving(), tmp_path / "a.mp4", 7, ""))
    assert "h264" in found
    assert "yuv420p(tv, bt709, progressive)" in found
    assert "96x64" in found


@pytest.mark.parametrize("fps", [1, 7, 30, 100])
def test_the_rate_is_kept(tmp_path: Path, fps: int) -> None:
    """Defect 12: a video written without its rate."""
    assert f" {fps} fps" in described(write_mp4(moving(), tmp_path / "a.mp4", fps, ""))


@pytest.mark.parametrize(("width", "height"), [(97, 64), (96, 65), (97, 65), (33, 35)])
def test_odd_sizes_gain_a_copy_of_their_edge(tmp_path: Path, width: int, height: int) -> None:
    """Defect 12: odd sizes crash."""
    frames = moving(width, height)
    found = read_frames(write_mp4(frames, tmp_path / "a.mp4", 7, ""))
    assert found.shape[1:3] == (height + height % 2, width + width % 2)
    assert np.abs(found[:, :height, :width].astype(int) - frames).mean() < 4
    assert np.abs(found[:, -1, :width].astype(int) - frames[:, -1]).mean() < 8
    assert np.abs(found[:, :height, -1].astype(int) - frames[:, :, -1]).mean() < 8


def test_playing_can_begin_before_all_is_loaded(tmp_path: Path) -> None:
    data = write_mp4(moving(), tmp_path / "a.mp4", 7, "").read_bytes()
    assert data[4:8] == b"ftyp"
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_the_same_frames_give_the_same_video(tmp_path: Path) -> None:
    first = read_frames(write_mp4(noise(), tmp_path / "a.mp4", 7, "one"))
    second = read_frames(write_mp4(noise(), tmp_path / "b.mp4", 7, "two"))
    assert (first == second).all()


@pytest.mark.parametrize(
    "comment",
    [
        '{"a": "b\\"c", "d": [1.5, null]}',
        "a=b;c#d\\e\nf\n[STREAM]\ncomment=g",
        "é 写真 🎈",
        "x" * 20_000,
    ],
)
def test_comments_come_back_exactly(tmp_path: Path, comment: str) -> None:
    assert read_comment(write_mp4(moving(), tmp_path / "a.mp4", 7, comment)) == comment


def test_no_comment_is_none(tmp_path: Path) -> None:
    assert read_comment(write_mp4(moving(), tmp_path / "a.mp4", 7, "")) is None


def test_odd_names_are_only_names(tmp_path: Path) -> None:
    path = tmp_path / "a:b %03d 'é" / "-x;y.mp4"
    path.parent.mkdir()
    assert write_mp4(moving(), path, 7, "note") == path
    assert read_comment(path) == "note"
    assert len(read_frames(path)) == 6


@pytest.mark.parametrize("name", ["-x.mp4", "http:x.mp4"])
def test_short_paths_are_no_options_and_no_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_comment(write_mp4(moving(), Path(name), 7, "note")) == "note"
    assert len(read_frames(Path(name))) == 6


Fake = Callable[[str], None]


@pytest.fixture
def fake_ffmpeg(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts a shell script in the place of ffmpeg; `"$real"` is the true one."""

    def put(script: str) -> None:
        path = tmp_path_factory.mktemp("bin") / "ffmpeg"
        path.write_text(f'#!/bin/sh\nreal="{FFMPEG}"\nfor last; do :; done\n{script}\n')
        path.chmod(0o755)
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(path))

    return put


@pytest.mark.skipif(shutil.which("taskset") is None, reason="taskset limits the cores")
def test_another_machine_writes_the_same_frames(tmp_path: Path, fake_ffmpeg: Fake) -> None:
    """With one core, and without the vector instructions of this processor.

    It takes many frames that pan before x264 chooses by the number of its threads.
    """
    big = noise(80, 60, 1)[0].repeat(8, axis=0).repeat(8, axis=1)
    frames = np.stack([big[6 * t : 6 * t + 192, 6 * t : 6 * t + 320] for t in range(25)])
    here = write_mp4(frames, tmp_path / "a.mp4", 7, "")
    fake_ffmpeg('exec taskset -c "$(taskset -cp $$ | grep -o "[0-9]*$")" "$real" -cpuflags 0 "$@"')
    there = write_mp4(frames, tmp_path / "b.mp4", 7, "")
    assert (read_frames(here) == read_frames(there)).all()


FULL = [
    'ulimit -f 8; exec "$real" "$@"',  # a real limit: the kernel stops the write
    'trap "" XFSZ; ulimit -f 8; exec "$real" "$@"',  # the same, reported as an error
    "echo half > \"$last\"; echo 'av_interleaved: No space left on device' >&2; exit 228",
    "cat > /dev/full",
]


@pytest.mark.parametrize("script", FULL)
def test_a_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, fake_ffmpeg: Fake, script: str
) -> None:
    fake_ffmpeg(script)
    with pytest.raises(StorageFull, check=has_code("video_disk_full")) as caught:
        write_mp4(noise(), tmp_path / "a.mp4", 7, "")
    assert caught.value.status == 507
    assert list(tmp_path.iterdir()) == []


BROKEN = [
    (
        'echo half > "$last"; echo "first"; echo "x264 is unwell" >&2; exit 1',
        "x264 is unwell",
    ),
    ("exit 3", "exit status 3"),
    ('exec "$real" -no_such_option "$@"', "Option not found"),
    ("kill -9 $$", "exit status -9"),
]


@pytest.mark.parametrize(("script", "reason"), BROKEN)
def test_a_failing_encoder_is_told_and_leaves_the_old_video(
    tmp_path: Path, fake_ffmpeg: Fake, script: str, reason: str
) -> None:
    path = write_mp4(moving(), tmp_path / "a.mp4", 7, "old")
    fake_ffmpeg(script)
    with pytest.raises(GenerationFailed, match=re.escape(reason)) as caught:
        write_mp4(moving(), path, 7, "new")
    assert caught.value.code == "video_not_written"
    assert list(tmp_path.iterdir()) == [path]
    assert b"old" in path.read_bytes()


def test_a_missing_encoder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "gone"))
    with pytest.raises(GenerationFailed, check=has_code("ffmpeg_missing")):
        write_mp4(moving(), tmp_path / "a.mp4", 7, "")


@pytest.mark.parametrize("folder", ["gone", "file"])
def test_a_missing_folder_is_told(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GenerationFailed, match="No such file or directory|Not a directory"):
        write_mp4(moving(), tmp_path / folder / "a.mp4", 7, "")


def test_what_interrupts_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(command: list[str], **_: object) -> None:
        Path(command[-1]).write_bytes(b"half")
        assert len(list(tmp_path.iterdir())) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(ffmpeg.subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_mp4(moving(), tmp_path / "a.mp4", 7, "")
    assert list(tmp_path.iterdir()) == []


def test_writers_of_one_name_do_not_mix(tmp_path: Path) -> None:
    """Defect 7: two parallel jobs overwrite each other; here even the whole name is shared."""
    path = tmp_path / "a.mp4"
    shades = [30, 120, 210]
    threads = [
        threading.Thread(target=write_mp4, args=(np.full((4, 64, 64, 3), s, np.uint8), path, 7, ""))
        for s in shades
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(tmp_path.iterdir()) == [path]
    found = read_frames(path)
    assert found.shape == (4, 64, 64, 3)
    assert min(abs(int(found.min()) - s) + abs(int(found.max()) - s) for s in shades) <= 4


def test_a_video_cut_off_gives_no_frames(tmp_path: Path) -> None:
    path = write_mp4(noise(), tmp_path / "a.mp4", 7, "note")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    with pytest.raises(InvalidRequest, check=has_code("video_unreadable")):
        read_frames(path)
    assert read_comment(path) == "note"


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize("read", [read_frames, read_comment, read_rate])
@pytest.mark.parametrize("kind", ["text", "empty", "cut", "playlist", "list", "folder", "gone"])
def test_other_files_are_refused(tmp_path: Path, read: Callable[[Path], object], kind: str) -> None:
    """A playlist and a concat list name files for ffmpeg to open: a reader must not follow them."""
    real = write_mp4(moving(), tmp_path / "real.mp4", 7, "secret")
    path = tmp_path / "a.mp4"
    if kind == "folder":
        path.mkdir()
    elif kind != "gone":
        path.write_bytes(
            {
                "text": b"hello",
                "empty": b"",
                "cut": real.read_bytes()[:40],
                "playlist": PLAYLIST.format(real).encode(),
                "list": f"ffconcat version 1.0\nfile {real.name}\n".encode(),
            }[kind]
        )
    with pytest.raises(InvalidRequest, match=r"a\.mp4") as caught:
        read(path)
    assert caught.value.field == "video"
    assert not re.search("secret|real", caught.value.message)
