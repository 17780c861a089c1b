"""The recipe is found in every kind of file, and no file makes its reader unfold more than that."""

import io
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from svd_core.errors import InvalidRequest
from svd_core.media.comment import MAX_COMMENT, read_comment
from svd_core.media.video import write_mp4
from tests.fakes import decompression_bombs as bombs
from tests.fakes.errors import has_code
from tests.media.test_video import moving

ROOT = Path(__file__).parents[2]

SCRIPT = """
import resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
from pathlib import Path
from svd_core.media.comment import read_comment
from svd_core.errors import InvalidRequest
for name in sys.argv[1:]:
    try:
        print(len(read_comment(Path(name)) or ""))
    except InvalidRequest:
        print("refused")
print(time.process_time())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of memory there")
def test_bombs_are_not_unfolded(tmp_path: Path) -> None:
    """Each of these took gigabytes, or the square of its size in time."""
    exif = bombs.exif_of_shared_tags(500_000, 100).removeprefix(b"Exif\0\0")
    webp = tmp_path / "a.webp"
    webp.write_bytes(riff(b"EXIF" + struct.pack("<L", len(exif)) + exif))
    gif = tmp_path / "a.gif"
    gif.write_bytes(bombs.gif_of_comments())
    files = [
        bombs.mp4_of_samples(tmp_path / "a.mp4"),
        bombs.zip_of_bzip2(tmp_path / "a.zip"),
        bombs.zip_of_many(tmp_path / "b.zip"),
        webp,
        gif,
    ]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *files], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    *found, seconds = done.stdout.split()
    assert found == ["4", "refused", "refused", "refused", "refused"]
    assert float(seconds) < 5


def riff(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<L", 4 + len(chunks)) + b"WEBP" + chunks


def test_ffmpeg_that_reads_an_mp4_of_many_samples_is_limited(tmp_path: Path) -> None:
    """The tables of 60 million samples take more than the reader may have."""
    from svd_core.media.video import read_frames

    with pytest.raises(InvalidRequest):
        read_frames(bombs.mp4_of_samples(tmp_path / "a.mp4", 60_000_000))


def test_boxes_of_64_bits_and_to_the_end_are_followed(tmp_path: Path) -> None:
    whole = write_mp4(moving(), tmp_path / "a.mp4", 7, "note").read_bytes()
    at = whole.index(b"moov") - 4
    size = int.from_bytes(whole[at : at + 4], "big")
    moov = whole[at + 8 : at + size]
    for name, head, behind in (
        ("long", struct.pack(">L4sQ", 1, b"moov", len(moov) + 16), whole[at + size :]),
        ("last", struct.pack(">L4s", 0, b"moov"), b""),
    ):
        path = tmp_path / name
        path.write_bytes(whole[:at] + head + moov + behind)
        assert read_comment(path) == "note"


@pytest.mark.parametrize("size", [2, 7, 9, 2**31])
def test_boxes_of_a_wrong_size_are_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(
        struct.pack(">L4s4sL", 16, b"ftyp", b"isom", 0) + struct.pack(">L4s", size, b"free")
    )
    with pytest.raises(InvalidRequest, check=has_code("video_unreadable", file="a.mp4")):
        read_comment(path)


def test_an_endless_row_of_boxes_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(
        struct.pack(">L4s4sL", 16, b"ftyp", b"isom", 0) + struct.pack(">L4s", 8, b"free") * 200_000
    )
    with pytest.raises(InvalidRequest):
        read_comment(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_read_to_its_limit(tmp_path: Path, method: int) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.comment = b"PK"
        archive.writestr("first.png", b"x" * 1000)
        archive.writestr("recipe.json", b" " * (2 * MAX_COMMENT))
    assert read_comment(path) == " " * MAX_COMMENT


def test_a_damaged_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("recipe.json", b"{}" * 100)
    packed = zlib.compressobj(wbits=-15)
    start = packed.compress(b"{}" * 100) + packed.flush()
    whole = path.read_bytes()
    assert start in whole
    path.write_bytes(whole.replace(start, b"\xff" * len(start)))
    with pytest.raises(InvalidRequest):
        read_comment(path)


def test_comments_before_the_first_frame_are_joined_and_others_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    file = io.BytesIO()
    Image.new("P", (64, 64)).save(file, "GIF", comment=b"one" * 200)
    path.write_bytes(file.getvalue() + b"!\xfe\x03two\0;")
    assert read_comment(path) == "one" * 200
