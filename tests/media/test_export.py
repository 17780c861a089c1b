"""An export shows the frames it was given, in the order and at the speed that was asked for."""

import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from svd_core.errors import GenerationFailed, InvalidRequest, StorageFull
from svd_core.media.export import Export, export, order_frames, read_comment
from svd_core.media.interpolation import interpolate
from svd_core.media.video import read_frames, read_rate
from svd_core.params import FACTORS
from svd_core.types import Frames
from tests.fakes.errors import has_code
from tests.media.test_video import FULL, Fake, described, fake_ffmpeg, moving

__all__ = ["fake_ffmpeg"]  # a fixture

COMMENT = json.dumps({"format": 1, "notes": ["Held to 30 fps — as trained. 🎞"] * 30})
FRAMES = moving(num_frames=5)
PING_PONG = [0, 1, 2, 3, 4, 3, 2, 1]
FORMATS = ["mp4", "gif", "webp", "png"]


def shown(path: Path) -> Frames:
    """Every picture in the file."""
    if path.suffix == ".mp4":
        return read_frames(path)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(".png"))
            pictures = [Image.open(io.BytesIO(archive.read(name))) for name in names]
            return np.stack([np.asarray(picture) for picture in pictures])
    with Image.open(path) as file:
        return np.stack([np.asarray(p.convert("RGB")) for p in ImageSequence.Iterator(file)])


def durations(path: Path) -> list[int]:
    """Milliseconds of each frame."""
    with Image.open(path) as file:
        return [
            int(p.info["duration"]) for p in ImageSequence.Iterator(file) if p.load() is not None
        ]


def made(tmp_path: Path, frames: Frames = FRAMES, **wanted: object) -> Path:
    export_ = Export(**wanted)  # type: ignore[arg-type]
    return export(frames, export_, tmp_path / f"a{export_.suffix}", COMMENT)


def recognized(found: Frames) -> list[int]:
    """Which of `FRAMES` each picture is nearest to."""
    error = np.abs(found[:, None].astype(float) - FRAMES[None]).mean(axis=(2, 3, 4))
    nearest, second = np.sort(error, axis=1)[:, :2].T
    assert (2 * nearest < second).all()  # 256 colours are few for these
    return [int(index) for index in error.argmin(axis=1)]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("order", "expected"),
    [("forward", [0, 1, 2, 3, 4]), ("reverse", [4, 3, 2, 1, 0]), ("ping-pong", PING_PONG)],
)
def test_the_order_is_that_asked_for(
    tmp_path: Path, format: str, order: str, expected: list[int]
) -> None:
    path = made(tmp_path, format=format, order=order)
    assert recognized(shown(path)) == expected
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("order", ["forward", "reverse", "ping-pong"])
def test_two_frames_have_no_middle_to_come_back_through(order: str) -> None:
    assert len(order_frames(FRAMES[:2], order)) == 2  # type: ignore[arg-type]


def test_pngs_are_the_very_frames(tmp_path: Path) -> None:
    path = made(tmp_path, format="png")
    assert (shown(path) == FRAMES).all()
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist()[:2] == ["frame-001.png", "frame-002.png"]
        assert json.loads(archive.read("recipe.json")) == json.loads(COMMENT)


@pytest.mark.parametrize("fps", [1, 7, 24, 30, 50, 100])
@pytest.mark.parametrize("format", ["gif", "webp"])
def test_a_moving_picture_takes_its_time(tmp_path: Path, format: str, fps: int) -> None:
    """A GIF of 7 fps counted as 14 hundredths each would gain a frame in fifty."""
    frames = moving(width=32, height=32, num_frames=50)
    found = durations(made(tmp_path, frames, format=format, fps=fps))
    assert sum(found) == pytest.approx(50_000 / fps, abs=10)
    assert max(found) - min(found) <= (10 if format == "gif" else 1)
    assert min(found) >= (20 if format == "gif" else 10)  # what browsers take as it is


SMOOTH = interpolate(FRAMES, 4)


def nearest(found: Frames) -> list[int]:
    """Which of `SMOOTH` each picture is nearest to."""
    error = np.abs(found[:, None].astype(float) - SMOOTH[None]).mean(axis=(2, 3, 4))
    return [int(index) for index in error.argmin(axis=1)]


@pytest.mark.parametrize("interpolation", ["2x", "4x"])
@pytest.mark.parametrize("format", ["mp4", "webp", "png"])
@pytest.mark.parametrize("order", ["forward", "reverse", "ping-pong"])
def test_in_between_frames_play_in_the_order_asked_for(
    tmp_path: Path, format: str, order: str, interpolation: str
) -> None:
    step = {"2x": 2, "4x": 1}[interpolation]
    there = list(range(0, len(SMOOTH), step))
    back = there[::-1]
    expected = {"forward": there, "reverse": back, "ping-pong": there + back[1:-1]}[order]
    path = made(tmp_path, format=format, order=order, interpolation=interpolation)
    assert nearest(shown(path)) == expected


@pytest.mark.parametrize("interpolation", ["off", "2x", "4x"])
def test_the_given_frames_stay_in_an_interpolated_export(
    tmp_path: Path, interpolation: str
) -> None:
    factor = FACTORS[interpolation]  # type: ignore[index]
    found = shown(made(tmp_path, format="png", interpolation=interpolation))
    assert (found[::factor] == FRAMES).all()
    assert len(found) == 4 * factor + 1


@pytest.mark.parametrize(
    ("format", "fps", "interpolation", "rate", "num_frames"),
    [
        ("mp4", 7, "2x", 14, 9), ("mp4", 7, "4x", 28, 17), ("mp4", 25, "4x", 100, 17),
        ("mp4", 30, "4x", 60, 9), ("mp4", 60, "2x", 60, 5), ("mp4", 100, "4x", 100, 5),
        ("webp", 7, "4x", 28, 17), ("webp", 30, "4x", 60, 9), ("webp", 60, "4x", 60, 5),
        ("gif", 7, "2x", 14, 9), ("gif", 7, "4x", 28, 17), ("gif", 13, "4x", 26, 9),
        ("gif", 25, "2x", 50, 9), ("gif", 30, "2x", 30, 5), ("gif", 100, "4x", 50, 3),
        ("png", 100, "4x", 400, 17),
    ],
)  # fmt: skip
def test_rate_and_number_of_frames_fit_the_format(
    tmp_path: Path, format: str, fps: int, interpolation: str, rate: int, num_frames: int
) -> None:
    path = made(tmp_path, format=format, fps=fps, interpolation=interpolation)
    found = shown(path)
    assert len(found) == num_frames
    if format == "mp4":
        assert read_rate(path) == rate
    elif format != "png":
        unit = 10 if format == "gif" else 1
        assert sum(durations(path)) == pytest.approx(1000 * num_frames / rate, abs=unit)


def test_an_interpolated_mp4_is_repeated_with_its_in_between_frames(tmp_path: Path) -> None:
    path = made(tmp_path, format="mp4", loops=3, interpolation="2x")
    assert nearest(shown(path)) == list(range(0, 17, 2)) * 3


def test_names_of_many_pngs_sort_as_they_play(tmp_path: Path) -> None:
    frames = moving(width=16, height=16, num_frames=251)
    path = made(tmp_path, frames, format="png", interpolation="4x", fps=1)
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
    assert len(names) == 1001
    assert names == sorted(names)


def test_the_rate_of_an_mp4_is_the_one_asked_for(tmp_path: Path) -> None:
    assert " 24 fps" in described(made(tmp_path, format="mp4", fps=24))


@pytest.mark.parametrize(("loops", "expected"), [(0, 1), (1, 1), (3, 3), (10, 10)])
def test_an_mp4_holds_its_frames_as_often_as_asked(
    tmp_path: Path, loops: int, expected: int
) -> None:
    path = made(tmp_path, format="mp4", loops=loops)
    assert recognized(shown(path)) == [0, 1, 2, 3, 4] * expected
    assert list(tmp_path.iterdir()) == [path]
    assert "yuv420p(tv, bt709, progressive)" in described(path)


@pytest.mark.parametrize(("loops", "counted"), [(0, 0), (1, None), (2, 1), (10, 9)])
def test_a_gif_counts_how_often_it_is_repeated(
    tmp_path: Path, loops: int, counted: int | None
) -> None:
    with Image.open(made(tmp_path, format="gif", loops=loops)) as file:
        assert file.info.get("loop") == counted


@pytest.mark.parametrize("loops", [0, 1, 10])
def test_a_webp_counts_how_often_it_plays(tmp_path: Path, loops: int) -> None:
    with Image.open(made(tmp_path, format="webp", loops=loops)) as file:
        assert file.info["loop"] == loops


@pytest.mark.parametrize("format", FORMATS)
def test_the_recipe_goes_along(tmp_path: Path, format: str) -> None:
    path = made(tmp_path, format=format, loops=2)
    assert read_comment(path) == COMMENT
    renamed = path.rename(tmp_path / "upload")  # the name is the visitor's
    assert read_comment(renamed) == COMMENT


@pytest.mark.parametrize("format", ["gif", "webp"])
def test_a_scene_that_stands_still_keeps_its_time(tmp_path: Path, format: str) -> None:
    """Of equal frames one picture is made, which must then stand as long as they all."""
    still = np.concatenate([FRAMES, np.repeat(FRAMES[-1:], 9, axis=0)])
    assert sum(durations(made(tmp_path, still, format=format))) == 2000


def test_a_gif_has_soft_gradients(tmp_path: Path) -> None:
    """Bands of 256 colours would be off where the colours of 4x4 pixels are taken together."""
    across = np.linspace(40, 200, 256)[None, :, None] * np.ones((128, 1, 1))
    frames = np.stack([across * (1, 0.8, 0.6) + t for t in range(4)]).astype(np.uint8)
    found = shown(made(tmp_path, frames, format="gif"))

    def blurred(pictures: Frames) -> Frames:
        return pictures.reshape(4, 32, 4, 64, 4, 3).mean(axis=(2, 4))

    assert np.abs(blurred(found) - blurred(frames)).mean() < 1.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "exe"), ("format", None), ("order", "sideways"), ("fps", 0), ("fps", 101),
        ("interpolation", "3x"), ("interpolation", 2), ("interpolation", None),
        ("fps", "x"), ("loops", -1), ("loops", 11), ("loops", 1e300), ("loops", "nan"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_told_by_field(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=field) as caught:
        Export(**{field: value})  # type: ignore[arg-type]
    assert caught.value.field == field


@pytest.mark.parametrize("script", FULL[2:])
def test_a_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, fake_ffmpeg: Fake, script: str
) -> None:
    fake_ffmpeg(script.replace('echo half > "$last"; ', ""))
    with pytest.raises(StorageFull, check=has_code("video_disk_full")):
        made(tmp_path, format="mp4", loops=3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of file sizes there")
@pytest.mark.parametrize("format", ["gif", "webp", "png"])
def test_a_full_disk_is_told_while_pictures_are_written(tmp_path: Path, format: str) -> None:
    """A real limit: the kernel stops the write."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StorageFull, check=has_code("video_disk_full")):
            made(tmp_path, format=format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_repeating_leaves_nothing(tmp_path: Path, fake_ffmpeg: Fake) -> None:
    fake_ffmpeg('case "$*" in *stream_loop*) exit 3;; esac; exec "$real" "$@"')
    with pytest.raises(GenerationFailed, match="exit status 3"):
        made(tmp_path, format="mp4", loops=3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["gif", "webp"])
def test_a_missing_folder_is_told(tmp_path: Path, format: str) -> None:
    with pytest.raises(GenerationFailed, match="No such file or directory"):
        made(tmp_path / "gone", format=format)


@pytest.mark.parametrize("head", [b"GIF89a", b"RIFF0000WEBP", b"PK\x03\x04", b"", b"hello"])
def test_damaged_files_are_refused(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(head + b"\0" * 100 if head else b"")
    with pytest.raises(InvalidRequest, check=has_code("video_unreadable", file="a.bin")):
        read_comment(path)


def test_a_bomb_in_a_zip_is_read_to_its_limit_only(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("recipe.json", b" " * 50_000_000)
    found = read_comment(path)
    assert found is not None
    assert len(found) == 2**20


def test_pictures_of_others_carry_no_recipe(tmp_path: Path) -> None:
    for name in ("a.gif", "a.webp"):
        Image.new("RGB", (40, 40)).save(tmp_path / name)
        assert read_comment(tmp_path / name) is None
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("else.txt", "")
    assert read_comment(tmp_path / "a.zip") is None
