"""`SVD_CLUSTER=local`: Ray on this machine, started and ended by the program."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from svd_core.cluster.config import HEALTH_CHECKS, has_gpu

ROOT = Path(__file__).parents[2]
SECONDS = 120
"""Far more than anything takes on a machine that has nothing else to do."""

QUICK_CHECKS = dict(zip(HEALTH_CHECKS, ("300", "1000", "300", "2"), strict=True))

pytestmark = pytest.mark.cluster


@pytest.fixture
def folder() -> Iterator[str]:
    """Temporary files of Ray. Paths of sockets may have 107 characters, so it has a short name."""
    with tempfile.TemporaryDirectory(prefix="svd-", dir="/tmp", ignore_cleanup_errors=True) as path:
        yield path


def environ(folder: str, **more: str) -> dict[str, str]:
    """Without the token of the other tests' cluster: a local one makes its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"RAY_TMPDIR": folder, "TMPDIR": folder} | more


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
def test_without_a_gpu_the_start_stops_with_one_sentence(folder: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "app.py"], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS,
        env=environ(folder, SVD_CLUSTER="local", SVD_DATA_DIR=str(tmp_path)),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("SVD_CLUSTER=local uses the GPUs of this machine")
    assert done.stderr.count("\n") == 1
    assert "Serving" not in done.stdout


RUNS_A_JOB = """
import os, signal, sys
from contextlib import closing
from pathlib import Path

def on_signal(*_): ...

signal.signal(signal.SIGTERM, on_signal)
from svd_core.cluster.config import ClusterConfig, prepare_environment

config = ClusterConfig("local", 1, 1)
prepare_environment(config)
from svd_core.cluster.executor import RayExecutor
from svd_core.cluster.pool import WorkerPool
from svd_core.cluster.worker import WorkerSettings
from svd_core.params import VideoParams, VideoRequest
from svd_core.storage import ResultStore
from tests.fakes.cluster_work import open_work

ended = []
with closing(
    WorkerPool(config, WorkerSettings("svd-nano", cpus=1), open_work, on_end=ended.append).start()
) as pool:
    assert signal.getsignal(signal.SIGTERM) is on_signal, "Ray has its own"
    executor = RayExecutor(pool, ResultStore(Path(sys.argv[1])))
    assert executor.prepare(lambda: True)
    *_, last = executor.run("job", VideoRequest(b"{}", VideoParams(seed=1)))
    print(pool.status.device, last.video.path.name)
    with open("/proc/self/task/%d/children" % os.getpid()) as children:
        pids = [int(pid) for pid in children.read().split()]
    commands = {pid: Path("/proc/%d/comm" % pid).read_text() for pid in pids}
    os.kill(next(pid for pid in pids if "raylet" in commands[pid]), signal.SIGKILL)
    while not ended:
        executor.prepare(lambda: not ended)
print(*ended)
"""


def test_it_uses_the_gpus_of_this_machine_and_says_when_ray_has_died(
    folder: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUNS_A_JOB, str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
        timeout=SECONDS, env=environ(folder, RAY_OVERRIDE_RESOURCES='{"GPU": 1}', **QUICK_CHECKS),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "1 x Pretended GPU, 1 GB job.mp4" in lines
    assert lines[-1].startswith("Ray and its GPU workers on this machine have ended")
    assert (tmp_path / "job.mp4").stat().st_size > 1000
