"""Small files that unfold to much: each is made here, and none takes more than a bounded size."""

import io
import struct
import subprocess
import zipfile
from pathlib import Path

import imageio_ffmpeg
from PIL import Image


def tiff_of_shared_tags(size: int = 2**20, tags: int = 40) -> bytes:
    """Tags that all point at the same bytes."""
    entries = [(256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
               (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 64), (279, 4, 1, 4096)]  # fmt: skip
    entries += [(40000 + n, 7, size, 8) for n in range(tags)]
    head = struct.pack("<4sL", b"II*\0", 8 + size) + bytes(size)
    listed = b"".join(struct.pack("<HHLL", *entry) for entry in entries)
    return head + struct.pack("<H", len(entries)) + listed + bytes(4)


def exif_of_shared_tags(size: int = 60_000, tags: int = 300) -> bytes:
    """The same as EXIF data, small enough for one segment of a JPEG."""
    listed = b"".join(struct.pack("<HHLL", 40000 + n, 7, size, 8) for n in range(tags))
    body = struct.pack("<4sL", b"II*\0", 8 + size) + bytes(size)
    return b"Exif\0\0" + body + struct.pack("<H", tags) + listed + bytes(4)


def tiff_of_one_tile(side: int = 40_000) -> bytes:
    """64 x 64 pixels in one tile of `side` pixels, which a decoder unfolds whole."""
    entries = [(256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1),
               (277, 3, 1, 1), (322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 8),
               (325, 4, 1, 64)]  # fmt: skip
    listed = b"".join(struct.pack("<HHLL", *entry) for entry in entries)
    return struct.pack("<4sL", b"II*\0", 72) + bytes(64) + struct.pack("<H", 10) + listed + bytes(4)


def gif_of_comments(blocks: int = 200_000, length: int = 1) -> bytes:
    """A parser that joins comment blocks one by one takes the square of their number."""
    whole = gif()
    place = 13 + 3 * 2 ** ((whole[10] & 7) + 1)
    comment = b"!\xfe" + (bytes([length]) + b"x" * length) * blocks + b"\0"
    return whole[:place] + comment + whole[place:]


def gif() -> bytes:
    file = io.BytesIO()
    Image.new("P", (64, 64), 3).save(file, "GIF")
    return file.getvalue()


def jpeg_of_scans(scans: int = 5000, side: int = 512) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    file = io.BytesIO()
    Image.new("L", (side, side), 99).save(file, "JPEG", progressive=True)
    whole = file.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * scans + whole[-2:]


def mp4_of_samples(path: Path, samples: int = 20_000_000) -> Path:
    """A real mp4 whose sample tables claim more samples than it has."""
    done = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
         "-s", "64x64", "-r", "7", "-i", "pipe:", "-c:v", "libx264", "-pix_fmt", "yuv420p",
         "-movflags", "+faststart", "-metadata", "comment=note", "-y", str(path)],
        input=bytes(64 * 64 * 3 * 2), check=True,
    )  # fmt: skip
    assert done.returncode == 0
    whole = bytearray(path.read_bytes())
    claimed = struct.pack(">L", samples)
    stsz = whole.index(b"stsz")
    whole[stsz + 8 : stsz + 16] = struct.pack(">L", 4) + claimed  # every sample has 4 bytes
    for name in (b"stts", b"ctts"):
        if (at := whole.find(name)) > 0:
            whole[at + 12 : at + 16] = claimed
    if (at := whole.find(b"stsc")) > 0:
        whole[at + 16 : at + 20] = claimed
    path.write_bytes(whole)
    return path


def zip_of_bzip2(path: Path, size: int = 300_000_000) -> Path:
    """A member that can only be unfolded whole: less than a kilobyte on disk."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive,
        archive.open("recipe.json", "w", force_zip64=True) as member,
    ):
        for _ in range(size // 10**7):
            member.write(b" " * 10**7)
    return path


def zip_of_many(path: Path, files: int = 200_000) -> Path:
    """A list of files that takes a Python object for each."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "")
    whole = path.read_bytes()
    start, end = whole.index(b"PK\x01\x02"), whole.index(b"PK\x05\x06")
    listed = whole[start:end] * files
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, len(listed), start, 0)
    path.write_bytes(whole[:start] + listed + tail)
    return path


def png_of_pixels(megapixels: int = 40) -> bytes:
    """One colour, transparent: some 100 kB."""
    side = int((megapixels * 10**6) ** 0.5) // 4 * 4
    file = io.BytesIO()
    Image.new("RGBA", (side, side), (9, 9, 9, 9)).save(file, "PNG", compress_level=6)
    return file.getvalue()
