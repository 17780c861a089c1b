"""Parts of the cluster that need no cluster: settings, transfer of files, release, status."""

import errno
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.checkpoints.table import CHECKPOINTS
from svd_core.cluster import config as cluster_config
from svd_core.cluster.config import ClusterConfig, has_gpu, is_loopback, prepare_environment
from svd_core.cluster.placement import AVOID_S, AvoidedNodes, Node, label_selector
from svd_core.cluster.roster import cluster_status
from svd_core.cluster.worker import CHUNK_BYTES, Chunk, code_release, read_chunks, write_chunks
from svd_core.engine.engine import EngineStatus
from svd_core.errors import InvalidSettings, ModelGated, StorageFull
from svd_core.settings import Settings
from svd_core.storage import ResultStore
from tests.fakes.errors import has_code

ROOT = Path(__file__).parents[2]


# -- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "range_"), [("1-64", (1, 64)), ("0-8", (0, 8)), ("4", (4, 4)), ("3-3", (3, 3))]
)
def test_a_range_of_workers(text: str, range_: tuple[int, int]) -> None:
    assert Settings.from_env({"SVD_CLUSTER_WORKERS": text}).worker_range == range_


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CLUSTER_WORKERS", "8-4"), ("CLUSTER_WORKERS", "0"), ("CLUSTER_WORKERS", "0-0"),
        ("CLUSTER_WORKERS", "many"), ("CLUSTER", "gpu-1"), ("CLUSTER", "http://gpu-1:6379"),
        ("CLUSTER_IDLE_S", "-1"), ("CLUSTER_CPUS", "0"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidSettings, match=f"SVD_{name} is wrong"):
        Settings.from_env({f"SVD_{name}": value})


def test_the_head_of_an_address() -> None:
    assert ClusterConfig("gpu-1.example.org:6379").head == ("gpu-1.example.org", 6379)
    assert ClusterConfig("[fd00::1]:6379").head == ("fd00::1", 6379)
    assert Settings.from_env({"SVD_CLUSTER": "[fd00::1]:6379"}).cluster == "[fd00::1]:6379"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "localhost", "::1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "192.0.2.7", "nowhere.invalid"])
def test_what_other_machines_reach_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_a_head_that_others_reach_needs_a_token(tmp_path: Path) -> None:
    there = ClusterConfig("10.0.0.1:6379")
    nowhere = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    for environ in ({}, {"RAY_AUTH_MODE": "token"}, {"RAY_AUTH_TOKEN": "secret"}):
        with pytest.raises(InvalidSettings, check=has_code("cluster_needs_token")):
            prepare_environment(there, nowhere | environ)
    prepare_environment(there, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "secret"})
    (tmp_path / "token").write_text("secret")
    prepare_environment(there, {"RAY_AUTH_MODE": "token"} | nowhere)
    prepare_environment(ClusterConfig("127.0.0.1:6379"), dict(nowhere))


def test_a_local_cluster_makes_its_own_token() -> None:
    first: dict[str, str] = {}
    second: dict[str, str] = {}
    for environ in (first, second):
        environ["RAY_OVERRIDE_RESOURCES"] = '{"GPU": 1}'
        prepare_environment(ClusterConfig("local"), environ)
    assert first["RAY_AUTH_MODE"] == "token"
    assert len(first["RAY_AUTH_TOKEN"]) == 64
    assert first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]


@pytest.mark.parametrize("name", ["nvidia0", "dxg", "kfd"])
def test_a_gpu_is_known_by_its_device(tmp_path: Path, name: str) -> None:
    (tmp_path / "nvidiactl").touch()  # which a driver makes without a GPU too
    assert not has_gpu(tmp_path)
    (tmp_path / name).touch()
    assert has_gpu(tmp_path)


def test_without_ray_the_start_stops_with_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_config, "find_spec", lambda _: None)
    with pytest.raises(InvalidSettings, check=has_code("cluster_needs_ray")):
        prepare_environment(ClusterConfig("local"), {})


def test_on_zero_gpu_there_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    with pytest.raises(InvalidSettings, check=has_code("cluster_on_zero_gpu")):
        prepare_environment(ClusterConfig("local"), {})


def test_ray_is_imported_only_for_a_cluster() -> None:
    code = "import sys, app, svd_core.cluster.config; print('ray' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False"]


# -- transfer -------------------------------------------------------------------------------------


def stored(folder: Path, mkv: int = 0) -> ResultStore:
    store = ResultStore(folder)
    store.path("a").write_bytes(b"video")
    if mkv:
        store.frames_path("a").write_bytes(os.urandom(mkv))
    return store


@pytest.mark.parametrize("mkv", [0, 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 1])
def test_files_arrive_as_they_were(tmp_path: Path, mkv: int) -> None:
    here, there = stored(tmp_path / "here", mkv), ResultStore(tmp_path / "there")
    with write_chunks(there, "b") as write:
        for chunk in read_chunks(here, "a"):
            assert len(chunk.data) <= CHUNK_BYTES
            write(chunk)
            assert not there.path("b").exists(), "not before all is there"
            assert not there.frames_path("b").exists()
    assert there.path("b").read_bytes() == b"video"
    assert there.frames_path("b").exists() == bool(mkv)
    if mkv:
        assert there.frames_path("b").read_bytes() == here.frames_path("a").read_bytes()
    assert {path.suffix for path in there.folder.iterdir()} <= {".mp4", ".mkv"}


def test_what_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    here, there = stored(tmp_path / "here", CHUNK_BYTES + 1), ResultStore(tmp_path / "there")
    with suppress(EOFError), write_chunks(there, "b") as write:
        for chunk in read_chunks(here, "a"):
            write(chunk)
        assert len(list(there.folder.iterdir())) == 2
        raise EOFError
    assert list(there.folder.iterdir()) == []


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    there = ResultStore(tmp_path)
    manager = write_chunks(there, "b")
    manager.__enter__()(Chunk(".mp4", b"video"))
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(StorageFull) as raised:
        manager.__exit__(OSError, full, None)
    assert raised.value.passing
    assert list(there.folder.iterdir()) == []


# -- placement ------------------------------------------------------------------------------------


def test_where_a_worker_failed_another_machine_is_tried_and_later_the_same_again() -> None:
    now = [0.0]
    avoid = AvoidedNodes(lambda: now[0])
    nodes = {"a": Node("gpu-1", 1), "b": Node("gpu-2", 1), "server": Node("server", 0)}
    assert avoid.avoided(nodes) == frozenset()
    avoid.fail("a")
    assert avoid.avoided(nodes) == {"a"}
    assert label_selector(avoid.avoided(nodes)) == {"ray.io/node-id": "!in(a)"}
    avoid.fail("b")
    assert avoid.avoided(nodes) == frozenset(), "no other machine has a GPU"
    assert avoid.avoided(nodes | {"c": Node("gpu-3", 1)}) == {"a", "b"}
    avoid.succeed("b")
    assert avoid.avoided(nodes) == {"a"}
    now[0] = AVOID_S
    assert avoid.avoided(nodes) == frozenset()
    assert label_selector(frozenset()) is None


def test_a_refused_machine_is_avoided_for_as_long_as_it_lives() -> None:
    now = [0.0]
    avoid = AvoidedNodes(lambda: now[0])
    nodes = {"a": Node("gpu-1", 1)}
    avoid.refuse("a", "gpu-1")
    now[0] = 10 * AVOID_S
    assert avoid.avoided(nodes) == {"a"}
    assert avoid.refused_hosts(nodes) == ["gpu-1"]
    assert avoid.avoided({"new": Node("gpu-1", 1)}) == frozenset()
    assert avoid.refused_hosts({"new": Node("gpu-1", 1)}) == []


# -- release --------------------------------------------------------------------------------------


def test_the_release_changes_with_the_code(tmp_path: Path) -> None:
    def package(name: str, files: dict[str, str]) -> Path:
        for path, text in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(text)
        return tmp_path / name

    first = code_release(package("first", {"a.py": "1", "b/c.py": "2"}))
    assert len(first) == 64
    assert first == code_release(package("same", {"b/c.py": "2", "a.py": "1", "d.txt": "3"}))
    assert first != code_release(package("changed", {"a.py": "1", "b/c.py": "3"}))
    assert first != code_release(package("moved", {"a.py": "1", "c.py": "2"}))
    assert first != code_release(package("added", {"a.py": "1", "b/c.py": "2", "b/d.py": ""}))
    assert code_release() == code_release()


# -- status ---------------------------------------------------------------------------------------

NANO = CHECKPOINTS["svd-nano"]
L4 = EngineStatus(
    checkpoint=NANO, device="NVIDIA L4, 24 GB", state="ready", catalog=ModelCatalog((NANO,))
)
H100 = replace(L4, device="NVIDIA H100, 80 GB")


def test_the_device_says_how_many_of_which() -> None:
    assert cluster_status("svd-nano", [L4]).device == "1 x NVIDIA L4, 24 GB"
    several = cluster_status("svd-nano", [H100, L4, L4])
    assert several.device == "2 x NVIDIA L4, 24 GB + 1 x NVIDIA H100, 80 GB"
    assert (several.state, several.workers) == ("ready", 3)


def test_without_a_worker_it_waits_for_a_machine() -> None:
    status = cluster_status("auto", [])
    assert (status.state, status.waits_for_machine, status.notice) == ("loading", True, None)
    assert status.checkpoint.name == "svd-xt"
    assert not cluster_status("auto", [], loading=1).waits_for_machine


def test_without_a_connection_it_says_so() -> None:
    status = cluster_status("auto", [], unreachable=True)
    assert status.notice is not None
    assert "cannot be reached" in status.notice
    assert cluster_status("auto", [L4], unreachable=True).notice is None


def test_a_machine_with_other_code_is_named() -> None:
    status = cluster_status("auto", [], refused=["gpu-2"])
    assert status.notice is not None
    assert "gpu-2" in status.notice
    assert cluster_status("auto", [L4], refused=["gpu-2"]).notice is None


def test_a_checkpoint_that_no_machine_has_is_reported() -> None:
    error = ModelGated("model_licence_required", model="a/b")
    status = cluster_status("auto", [], error=error)
    assert (status.state, status.notice) == ("failed", error.message)
    assert cluster_status("auto", [], 1, error).state == "loading", "the next machine tries"
