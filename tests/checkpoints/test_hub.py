"""Download from the hub: only the needed files, resumed after a break, with clear errors."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from svd_core.checkpoints.hub import CONFIGS, fetch, needed_files
from svd_core.checkpoints.table import CHECKPOINTS, find_checkpoint
from svd_core.errors import Cancelled, ModelBroken, ModelGated, ModelUnreachable
from tests.fakes.errors import has_code
from tests.fakes.hub_server import COMMIT, GATED, OPEN, SVD_XT, TOKEN, FakeHub

TINY = find_checkpoint(OPEN, cuda=False)
UNET = "unet/diffusion_pytorch_model.safetensors"
UNET_FP16 = "unet/diffusion_pytorch_model.fp16.safetensors"


class Bytes(list[tuple[int, int]]):
    """Remembers every report of (bytes had, bytes in all)."""

    def __call__(self, had: int, total: int) -> None:
        self.append((had, total))


@pytest.fixture(autouse=True)
def _quiet_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client waits a second before it takes a download up again."""
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def test_only_the_half_precision_files_come_for_a_gpu(hub: FakeHub) -> None:
    found = fetch(TINY, half=True, on_bytes=Bytes())
    assert set(hub.downloaded()) == {
        *CONFIGS,
        "svd.json",
        UNET_FP16,
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "image_encoder/model.fp16.safetensors",
    }
    assert found.revision == COMMIT
    assert (found.folder / UNET_FP16).read_bytes() == hub.files[UNET_FP16]


def test_only_the_full_precision_files_come_without_a_gpu(hub: FakeHub) -> None:
    fetch(TINY, half=False, on_bytes=Bytes())
    assert [f for f in hub.downloaded() if "fp16" in f or "/" not in f] == [
        f for f in hub.downloaded() if f in ("model_index.json", "svd.json")
    ]
    assert UNET in hub.downloaded()


def test_bytes_are_counted_up_to_the_total(hub: FakeHub) -> None:
    reports = Bytes()
    fetch(TINY, half=True, on_bytes=reports)
    total = sum(len(hub.files[name]) for name in set(hub.downloaded()))
    assert reports[0] == (0, total)
    assert reports[-1] == (total, total)
    assert [had for had, _ in reports] == sorted(had for had, _ in reports)


def test_nothing_is_downloaded_twice(hub: FakeHub) -> None:
    fetch(TINY, half=True, on_bytes=Bytes())
    hub.served.clear()
    reports = Bytes()
    fetch(TINY, half=True, on_bytes=reports)
    assert hub.downloaded() == []
    assert reports == []


def test_works_without_the_hub_once_everything_is_there(hub: FakeHub) -> None:
    before = fetch(TINY, half=True, on_bytes=Bytes())
    hub.stop()
    hub.served.clear()
    assert fetch(TINY, half=True, on_bytes=Bytes()) == before
    assert hub.served == []


def test_works_in_offline_mode(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fetch(TINY, half=True, on_bytes=Bytes())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(TINY, half=True, on_bytes=Bytes()) == before


def test_a_connection_cut_once_is_taken_up_where_it_broke(hub: FakeHub) -> None:
    hub.break_off[UNET_FP16] = 1
    reports = Bytes()
    found = fetch(TINY, half=True, on_bytes=reports)
    assert (found.folder / UNET_FP16).read_bytes() == hub.files[UNET_FP16]
    ranges = [wanted for method, f, wanted in hub.served if (method, f) == ("GET", UNET_FP16)]
    assert len(ranges) == 2
    assert ranges[0] is None
    assert int((ranges[1] or "=0-").strip("bytes=-")) > len(hub.files[UNET_FP16]) // 3
    assert reports[-1][0] == reports[-1][1]


def test_a_download_broken_for_good_goes_on_next_time(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(url: str, temp_file: object, **_: object) -> None:
        raise OSError("Consistency check failed: file should be of size 2 but has size 1")

    with monkeypatch.context() as patch:
        original = __import__("huggingface_hub.file_download").file_download.http_get

        def http_get(url: str, temp_file: object, **options: object) -> None:
            (cut if url.endswith(UNET_FP16) else original)(url, temp_file, **options)

        patch.setattr("huggingface_hub.file_download.http_get", http_get)
        with pytest.raises(ModelUnreachable, check=has_code("hub_unreachable")):
            fetch(TINY, half=True, on_bytes=Bytes())
    whole = set(hub.downloaded())
    assert whole
    hub.served.clear()
    reports = Bytes()
    fetch(TINY, half=True, on_bytes=reports)
    assert UNET_FP16 in hub.downloaded()
    assert whole & set(hub.downloaded()) == set()
    assert reports[0][0] > 0


def test_half_a_download_does_not_count_without_the_hub(hub: FakeHub) -> None:
    fetch(TINY, half=True, on_bytes=Bytes())
    for path in Path(constants.HF_HUB_CACHE).rglob("unet/*.safetensors"):
        path.unlink()
    hub.stop()
    with pytest.raises(ModelUnreachable):
        fetch(TINY, half=True, on_bytes=Bytes())


def test_stopping_stops_the_download(hub: FakeHub) -> None:
    def stop(had: int, _: int) -> None:
        if had:
            raise Cancelled

    with pytest.raises(Cancelled):
        fetch(TINY, half=True, on_bytes=stop)
    assert len(set(hub.downloaded())) == 1


def test_a_gated_model_says_where_to_accept_its_licence(hub: FakeHub) -> None:
    with pytest.raises(ModelGated) as caught:
        fetch(CHECKPOINTS["svd-xt-1.1"], half=True, on_bytes=Bytes())
    assert has_code("model_licence_required", model=GATED)(caught.value)
    assert f"https://huggingface.co/{GATED}" in caught.value.message


def test_a_token_opens_the_gate(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch(CHECKPOINTS["svd-xt-1.1"], half=True, on_bytes=Bytes()).revision == COMMIT


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_about_the_licence_or_the_token(hub: FakeHub, status: int) -> None:
    hub.status = status
    code = "model_not_public" if status == 401 else "model_forbidden"
    with pytest.raises(ModelGated, check=has_code(code)):
        fetch(TINY, half=True, on_bytes=Bytes())


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_in_trouble_is_unreachable(hub: FakeHub, status: int) -> None:
    hub.status = status
    code = "hub_rate_limited" if status == 429 else "hub_failing"
    with pytest.raises(ModelUnreachable, check=has_code(code)):
        fetch(TINY, half=True, on_bytes=Bytes())


def test_nobody_listening_is_unreachable(hub: FakeHub) -> None:
    hub.stop()
    with pytest.raises(ModelUnreachable, check=has_code("hub_unreachable", model=OPEN)):
        fetch(TINY, half=True, on_bytes=Bytes())


def test_a_server_that_is_no_hub_is_unreachable(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.status = 200
    with pytest.raises(ModelUnreachable):
        fetch(TINY, half=True, on_bytes=Bytes())


def test_an_unknown_model_is_named(hub: FakeHub) -> None:
    with pytest.raises(ModelBroken, check=has_code("model_not_found", model="example/missing")):
        fetch(find_checkpoint("example/missing", cuda=False), half=True, on_bytes=Bytes())


@pytest.mark.parametrize("gone", ["model_index.json", "vae/config.json"])
def test_a_missing_file_is_named_before_anything_is_downloaded(hub: FakeHub, gone: str) -> None:
    del hub.files[gone]
    with pytest.raises(ModelBroken, match=gone):
        fetch(TINY, half=True, on_bytes=Bytes())
    assert hub.downloaded() == []


def test_a_full_disk_is_named(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(ModelUnreachable, check=has_code("model_disk_full")):
        fetch(TINY, half=True, on_bytes=Bytes())


def test_full_weights_serve_where_no_half_ones_exist() -> None:
    files = [*CONFIGS, UNET, "vae/diffusion_pytorch_model.safetensors"]
    files += ["image_encoder/model.fp16.safetensors", "image_encoder/pytorch_model.bin"]
    assert needed_files(files, True, "x") == [*CONFIGS, *files[-4:-1]]


def test_weights_in_shards_come_with_their_index() -> None:
    shards = [f"unet/diffusion_pytorch_model.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = "unet/diffusion_pytorch_model.safetensors.index.fp16.json"
    files = [*CONFIGS, *shards, index, "vae/diffusion_pytorch_model.safetensors"]
    files += ["image_encoder/model.safetensors"]
    assert set(needed_files(files, True, "x")) == set(files)


def test_pickled_weights_are_no_weights() -> None:
    with pytest.raises(ModelBroken, match="unet/diffusion_pytorch_model.safetensors"):
        needed_files([*CONFIGS, "unet/diffusion_pytorch_model.bin"], True, "x")


def test_the_environment_names_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    """HF_ENDPOINT and HF_HOME, read where users set them; SVD-XT comes by its own name."""
    code = (
        "from svd_core.checkpoints.hub import fetch\n"
        "from svd_core.checkpoints.table import CHECKPOINTS\n"
        "print(fetch(CHECKPOINTS['svd-xt'], True, lambda had, total: None).folder)\n"
    )
    environ = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=Path(__file__).parents[2],
        env=environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder.is_relative_to(tmp_path / "home")
    assert SVD_XT.replace("/", "--") in str(folder)
    assert (folder / UNET_FP16).is_file()
