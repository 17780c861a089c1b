"""Decoding of untrusted files takes bounded memory and time, one picture at a time."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svd_core.errors import InvalidImage, ServerBusy, SvdError
from svd_core.media.decoder_process import Decoder
from svd_core.media.file_signatures import KNOWN
from svd_core.media.image import MAX_PREVIEW_PIXELS, CachedPhoto, PreviewCache, open_photo
from svd_core.params import VideoParams
from tests.fakes import decompression_bombs as bombs
from tests.fakes.errors import has_code
from tests.media.test_image import SIZES, encoded, near, photo_like, quarters, tiff

ROOT = Path(__file__).parents[2]


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    decoder = Decoder()
    yield decoder
    decoder.close()


BOMBS: dict[str, Callable[[], bytes]] = {
    "tags that share their bytes": bombs.tiff_of_shared_tags,
    "one tile of 1600 megapixels": bombs.tiff_of_one_tile,
    "many comment blocks": bombs.gif_of_comments,
    "few long comment blocks": lambda: bombs.gif_of_comments(3000, 255),
    "many scans": bombs.jpeg_of_scans,
    "many segments": lambda: b"\xff\xd8" + b"\xff\xfe\0\x02" * 50_000,
}


@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS)
def test_a_file_that_unfolds_to_too_much_is_refused(make: Callable[[], bytes]) -> None:
    with pytest.raises(InvalidImage) as caught:
        open_photo(make())
    assert caught.value.code == "image_too_complex"


def test_what_follows_a_jpeg_is_not_taken_for_scans() -> None:
    """Phones append a video to motion photos, and maker notes hold any bytes."""
    behind = b"\xff\xda\0\x02" * 50_000
    data = encoded(quarters(), "JPEG", quality=95, progressive=True)
    assert near(open_photo(data + behind), quarters())
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x927C] = behind[:60_000]
    assert near(open_photo(encoded(quarters(), "JPEG", quality=95, exif=exif)), quarters())


def test_exif_data_that_unfolds_to_too_much_counts_as_damaged() -> None:
    data = encoded(quarters(), "JPEG", quality=95, exif=bombs.exif_of_shared_tags())
    assert near(open_photo(data), quarters())


def test_ordinary_metadata_passes() -> None:
    """A comment, a colour profile's worth of blocks, and EXIF with two directories."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x9286] = b"x" * 20_000
    data = encoded(quarters().rotate(90, expand=True), "JPEG", quality=95, exif=exif)
    assert near(open_photo(data), quarters())
    assert open_photo(bombs.gif_of_comments(1000, 200)).size == (64, 64)
    assert open_photo(encoded(quarters(), "TIFF", exif=exif)).size == (64, 96)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_of_50_megapixels_is_reduced_while_it_is_decoded(progressive: bool) -> None:
    data = encoded(Image.new("RGB", (8000, 6250), (200, 40, 90)), "JPEG", progressive=progressive)
    photo = open_photo(data)
    assert photo.size == (4000, 3125)
    assert near(photo, Image.new("RGB", (4000, 3125), (200, 40, 90)))


@pytest.mark.parametrize(
    ("kind", "mode"), [("MPO", "RGB"), ("JPEG", "CMYK"), ("JPEG", "L")]
)  # phones write MPO for HDR, with a gain map as its second picture
def test_other_jpegs_of_50_megapixels_are_reduced_too(kind: str, mode: str) -> None:
    options = {"save_all": True, "append_images": [Image.new("L", (99, 99))]}
    image = Image.new("RGB", (8160, 6144), (200, 40, 90)).convert(mode)
    photo = open_photo(encoded(image, kind, quality=60, **(options if kind == "MPO" else {})))
    assert photo.size == (4080, 3072)


def test_more_megapixels_than_any_camera_has_are_refused() -> None:
    data = encoded(Image.new("L", (11_000, 11_000)), "JPEG")
    with pytest.raises(
        InvalidImage,
        check=has_code("image_jpeg_too_many_pixels", width=11000, height=11000, most=110),
    ):
        open_photo(data)


def test_what_libraries_print_stays_out_of_the_console(tmp_path: Path) -> None:
    path = tmp_path / "photo.tif"
    path.write_bytes(tiff(photometric=2, bits=8, compression=50001))
    code = (
        "import sys, pathlib\n"
        "from svd_core.errors import InvalidImage\n"
        "from svd_core.media.image import open_photo\n"
        "try: open_photo(pathlib.Path(sys.argv[1]).read_bytes())\n"
        "except InvalidImage: print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True)
    assert (done.stdout, done.stderr) == (b"refused\n", b"")


def test_errors_keep_their_code_and_values(decoder: Decoder) -> None:
    small = encoded(Image.new("L", (9, 9)), "PNG")
    with pytest.raises(InvalidImage, check=has_code("image_unknown_format", formats=[*KNOWN])):
        decoder.decode(b"hello")
    with pytest.raises(InvalidImage, check=has_code("image_too_small", width=9, height=9)):
        decoder.decode(small)


def test_the_picture_is_that_of_the_file_bit_by_bit(decoder: Decoder) -> None:
    for width, height in ((300, 203), (64, 512)):
        photo = photo_like(width, height)
        found = decoder.decode(encoded(photo, "PNG"))
        assert (np.asarray(found.image) == np.asarray(photo)).all()
        assert found.size == photo.size


def test_a_reduced_picture_says_what_size_it_had(decoder: Decoder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    data = encoded(quarters(1200, 800), "JPEG", exif=exif)
    image, size = decoder.decode(data, 100_000)
    assert size == (800, 1200)
    assert image.width * image.height <= 100_000
    assert abs(image.width / image.height - 2 / 3) < 0.01


def test_one_process_serves_many_threads(decoder: Decoder) -> None:
    photos = [photo_like(64 + n, 64) for n in range(12)]
    files = [encoded(photo, "PNG") for photo in photos]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda data: decoder.decode(data).image, files))
    for image, photo in zip(found, photos, strict=True):
        assert (np.asarray(image) == np.asarray(photo)).all()


def test_a_process_that_has_died_is_replaced(decoder: Decoder) -> None:
    data = encoded(quarters(), "PNG")
    decoder.decode(data)
    process = decoder._process
    assert process is not None
    process.kill()
    process.wait()
    assert near(decoder.decode(data).image, quarters(), 1)


def test_a_large_process_ends_and_gives_its_memory_back(decoder: Decoder) -> None:
    decoder.decode(bombs.png_of_pixels(30), 10_000)
    assert decoder._process is None
    assert decoder.decode(encoded(quarters(), "PNG")).size == (96, 64)
    assert decoder._process is not None


def dying(code: str, **limits: float) -> Decoder:
    start = "import os, signal, sys, time; sys.stdin.buffer.read(16); "
    return Decoder((sys.executable, "-c", start + code), **limits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("os.kill(os.getpid(), signal.SIGPROF)", InvalidImage),  # its time is over
        ("os.kill(os.getpid(), signal.SIGSEGV)", InvalidImage),
        ("os.abort()", InvalidImage),
        ("print('no JSON', flush=True)", InvalidImage),
        ("os.kill(os.getpid(), signal.SIGKILL)", ServerBusy),  # the system is out of memory
    ],
)
def test_the_end_of_the_process_is_a_sentence(code: str, kind: type[SvdError]) -> None:
    expected = "decoder_busy" if kind is ServerBusy else "image_too_complex"
    with pytest.raises(kind, check=has_code(expected)):
        dying(code).decode(b"photo")


def test_a_picture_that_takes_for_ever_is_given_up() -> None:
    with pytest.raises(InvalidImage):
        dying("time.sleep(600)", wall_s=0.5).decode(b"photo")


def test_a_picture_too_many_is_refused_at_once() -> None:
    decoder = dying("time.sleep(600)", waiting=2)
    threads = [threading.Thread(target=decode_quietly, args=(decoder,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    while decoder._waiting.acquire(blocking=False):
        decoder._waiting.release()
    with pytest.raises(ServerBusy, check=has_code("decoder_busy")) as caught:
        decoder.decode(b"photo")
    patient = threading.Thread(target=decode_quietly, args=(decoder, True))
    patient.start()
    threads.append(patient)
    patient.join(0.2)
    assert patient.is_alive()
    assert (caught.value.status, caught.value.passing) == (503, True)
    while any(thread.is_alive() for thread in threads):
        if (process := decoder._process) is not None:
            process.kill()
        threads[0].join(0.05)


def decode_quietly(decoder: Decoder, patient: bool = False) -> None:
    with pytest.raises((InvalidImage, ServerBusy)):
        decoder.decode(b"photo", patient=patient)


def test_a_process_that_cannot_be_started_for_the_moment_is_told(
    monkeypatch: pytest.MonkeyPatch, decoder: Decoder
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("svd_core.media.decoder_process.subprocess.Popen", refused)
        with pytest.raises(ServerBusy):
            decoder.decode(b"photo")
    assert decoder.decode(encoded(quarters(), "PNG")).size == (96, 64)


SCRIPT = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (2500 << 20, 2500 << 20))
from svd_core.media import decoder_process
from svd_core.errors import SvdError
from svd_core.media.image import CachedPhoto
from svd_core.media.image import open_photo

decoder_process.WAIT_S = 600.0  # on a busy machine, too

def read(path):
    data = Path(path).read_bytes()
    told = []
    for opened in (CachedPhoto, open_photo):
        try:
            told.append(opened(data).size)
        except SvdError as error:
            told.append(type(error).__name__)
    return told

with ThreadPoolExecutor(12) as pool:
    told = list(pool.map(read, sys.argv[1:]))
# Not by getrusage: what it says of this process includes the one that started it.
status = Path("/proc/self/status").read_text()
own = int(status.partition("VmHWM:")[2].split()[0]) // 1024
others = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
print(told, own, others, sep="\\n")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits and units of Linux")
def test_all_bombs_at_once_take_bounded_memory(tmp_path: Path) -> None:
    """Twelve threads, and none takes what it could."""
    files = []
    for name, make in (BOMBS | {"pixels": lambda: bombs.png_of_pixels(25)}).items():
        path = tmp_path / name
        path.write_bytes(make())
        files += [str(path)] * 2
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *files], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told, own, others = done.stdout.splitlines()
    assert told.count("InvalidImage") == 4 * len(BOMBS)
    assert told.count("(5000, 5000)") == 4  # they are photos, if large ones
    assert int(own) + int(others) < 1500


class TestPreviews:
    def test_a_preview_is_small_whatever_the_shape(self) -> None:
        for size in ((8000, 1000), (3000, 3000), (40, 40)):
            preview = CachedPhoto(
                encoded(Image.new("RGB", size, (9, 99, 199)), "PNG"), PreviewCache()
            )
            assert preview.size == size
            assert preview.preview_image.width * preview.preview_image.height <= MAX_PREVIEW_PIXELS

    def test_a_photo_is_decoded_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cache, data = PreviewCache(), encoded(photo_like(), "PNG")
        first = CachedPhoto(data, cache).frame(SIZES, VideoParams())
        monkeypatch.delattr("svd_core.media.image.DECODER")
        assert CachedPhoto(data, cache).frame(SIZES, VideoParams()).image == first.image

    def test_all_previews_together_are_limited(self) -> None:
        files = [encoded(photo_like(200 + n, 160), "PNG") for n in range(20)]
        one = PreviewCache()
        CachedPhoto(files[0], one)
        cache = PreviewCache(5 * one._bytes)
        previews = [CachedPhoto(data, cache) for data in files]
        previews[-3].preview_image.load()  # used again, so it stays longer than those after it
        assert cache._bytes <= 5 * one._bytes
        assert 4 <= len(cache._previews) <= 5
        assert previews[-1].frame(SIZES, VideoParams()).fit == "crop"
        with pytest.raises(InvalidImage, check=has_code("image_preview_expired")):
            previews[0].frame(SIZES, VideoParams())

    def test_cached_photos_themselves_hold_no_pixels(self) -> None:
        preview = CachedPhoto(encoded(photo_like(800, 600), "PNG"), PreviewCache())
        assert not any(isinstance(value, bytes | Image.Image) for value in vars(preview).values())
