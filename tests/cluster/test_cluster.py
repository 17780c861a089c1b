"""GPU workers on real Ray nodes, which are killed, frozen and replaced.

The nodes lie on loopback addresses, each a process session that ends like a machine, and their GPUs
are pretended. The tests share them and leave two with a GPU behind; what a test breaks it replaces.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from svd_core.benchmarks.cluster_nodes import LoopbackCluster, RayNode, ray_environment
from svd_core.cluster.config import ClusterConfig, prepare_environment
from svd_core.errors import InvalidImage, ModelGated
from svd_core.events import Event, Failed, Progress, Succeeded
from svd_core.jobs.executor import ExecutorLost
from svd_core.params import VideoParams, VideoRequest
from svd_core.storage import ResultStore
from tests.fakes.job_events import eventually

if TYPE_CHECKING:
    from svd_core.cluster.executor import RayExecutor
    from svd_core.cluster.pool import WorkerPool

pytestmark = pytest.mark.cluster

SECONDS = 60.0
"""Far more than anything takes on a machine that has nothing else to do."""

OWN, FIRST, SECOND, THIRD, FOURTH = (f"127.0.0.{n}" for n in (9, 3, 4, 5, 6))

TOKEN = ray_environment()
os.environ.update(TOKEN)  # Ray reads it when it is imported


class Site:
    """The nodes of the pretended cluster, by address."""

    def __init__(self) -> None:
        checks = {"period_ms": 500, "timeout_ms": 1500, "initial_delay_ms": 500,
                  "failure_threshold": 3}  # fmt: skip
        self.cluster = LoopbackCluster(TOKEN, checks)
        self.nodes: dict[str, RayNode] = {}

    def start_head(self) -> None:
        self.cluster.start_head().wait_until_up()

    def start(self, *ips: str, **environ: str) -> None:
        """Start nodes at these addresses at the same time; all but ours have a GPU."""
        for ip in ips:
            self.nodes[ip] = self.cluster.start_node(ip, gpus=int(ip != OWN), **environ)
        for ip in ips:
            self.nodes[ip].wait_until_up()

    def node_of(self, job: "Running") -> RayNode:
        """The node on which a job runs."""
        pid = int(job.note.split()[-1])
        return next(node for node in self.nodes.values() if pid in node.pids())

    @contextmanager
    def pool(self, least: int = 0, most: int = 4, **options: Any) -> Iterator["WorkerPool"]:
        config = ClusterConfig(
            self.cluster.address, least, most, options.pop("idle_s", 300.0), node_ip=OWN
        )
        prepare_environment(config)
        from svd_core.cluster.pool import WorkerPool
        from svd_core.cluster.worker import WorkerSettings
        from tests.fakes.cluster_work import open_work

        options.setdefault("open_work", open_work)
        with closing(WorkerPool(config, WorkerSettings("svd-nano", cpus=1), **options)) as pool:
            yield pool


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    try:
        site.start_head()
        site.start(OWN, FIRST, SECOND)
        yield site
    finally:
        site.cluster.close()


class Running:
    """A job in a thread of its own, as the queue drives it."""

    def __init__(self, executor: "RayExecutor", job_id: str, request: VideoRequest) -> None:
        self.events: list[Event] = []
        self.lost: ExecutorLost | None = None
        self._stop = threading.Event()
        self._run = lambda: executor.run(job_id, request)
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    @property
    def last(self) -> Event:
        return self.events[-1]

    @property
    def note(self) -> str:
        """Which process works on it; waits until that is known."""
        eventually(lambda: self.events or self.lost, SECONDS)
        first = self.events[0]
        assert isinstance(first, Progress)
        assert first.note is not None
        return first.note

    def stop(self) -> None:
        self._stop.set()
        self.join()

    def join(self) -> "Running":
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()
        return self

    def _work(self) -> None:
        try:
            with closing(self._run()) as events:
                for event in events:
                    self.events.append(event)
                    if self._stop.is_set():
                        return
        except ExecutorLost as lost:
            self.lost = lost


class Crew:
    """Executors of a pool, with a store of results."""

    def __init__(self, pool: "WorkerPool", folder: Path) -> None:
        from svd_core.cluster.executor import RayExecutor

        self.pool = pool
        self.store = ResultStore(folder)
        self.executor: Callable[[], RayExecutor] = lambda: RayExecutor(pool, self.store)

    def start(self, job_id: str, continues: str | None = None, **told: object) -> Running:
        """Start a job on a worker that has nothing to do."""
        executor = self.executor()
        until = time.monotonic() + SECONDS
        assert executor.prepare(lambda: time.monotonic() < until), "no worker"
        image = json.dumps(told).encode()
        return Running(executor, job_id, VideoRequest(image, VideoParams(seed=7), continues))

    def check(self, job: Running, job_id: str, mkv: int = 0) -> None:
        """The job has ended with its files."""
        assert job.join().lost is None
        assert isinstance(job.last, Succeeded), job.last
        assert job.last.video.path == self.store.path(job_id)
        assert job.last.video.path.stat().st_size > 1000
        assert self.store.frames_path(job_id).exists() == bool(mkv)
        assert all(isinstance(event, Progress) for event in job.events[:-1])

    def files(self) -> list[str]:
        return sorted(path.name for path in self.store.folder.iterdir())


def test_jobs_run_at_the_same_time_and_one_is_continued_on_another_machine(
    site: Site, tmp_path: Path
) -> None:
    mkv = 20_000_000  # several chunks
    with site.pool() as pool:
        crew = Crew(pool, tmp_path)
        first = crew.start("first", steps=3, preview=100_000, mkv=mkv)
        crew.check(first, "first", mkv)
        assert [event.step for event in first.events if isinstance(event, Progress)] == [1, 2, 3]
        assert len(first.events[1].preview) == 100_000  # type: ignore[union-attr]
        held = crew.start("held", hold=str(tmp_path / "go"))
        assert held.note == first.note, "an idle worker is used before another is started"
        longer = crew.start("longer", continues="first", previous_mkv=mkv)
        crew.check(longer, "longer")
        assert site.node_of(longer) is not site.node_of(held)
        assert pool.status.device == "2 x Pretended GPU, 1 GB"
        (tmp_path / "go").touch()
        crew.check(held, "held")
        gone = crew.start("gone", continues="no-such-job").join()
        assert isinstance(gone.last, Failed), "its video is not there"


def test_cancelling_frees_the_gpu_and_an_error_is_the_jobs_own(site: Site, tmp_path: Path) -> None:
    with site.pool(most=1, idle_s=0.5) as pool:
        crew = Crew(pool, tmp_path)
        job = crew.start("stopped", steps=1000, step_s=0.05)
        worker = job.note
        eventually(lambda: len(job.events) > 3, SECONDS)
        job.stop()
        assert isinstance(job.last, Progress)
        bad = crew.start("bad", error="image").join()
        assert bad.note == worker, "there is no other GPU for it"
        assert isinstance(bad.last, Failed)
        assert isinstance(bad.last.error, InvalidImage)
        assert crew.files() == []
        eventually(lambda: pool.status.waits_for_machine, SECONDS)  # the GPU is given back


def test_a_dead_worker_loses_its_job_alone(site: Site, tmp_path: Path) -> None:
    with site.pool() as pool:
        crew = Crew(pool, tmp_path)
        other = crew.start("other", hold=str(tmp_path / "go"))
        dying = crew.start("dying", steps=5, step_s=0.2, die=3)
        assert dying.join().lost is not None
        assert dying.lost.counted
        broken = crew.start("broken", error="device").join()  # a GPU that only a restart mends
        assert broken.lost is not None
        again = crew.start("dying")
        crew.check(again, "dying")
        assert again.note not in (dying.note, broken.note)
        (tmp_path / "go").touch()
        crew.check(other, "other")


def test_a_worker_with_other_code_gets_no_job(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with site.pool(release="another release") as pool:
        crew = Crew(pool, tmp_path)
        executor = crew.executor()
        assert not executor.prepare(lambda: caplog.text.count("another release") < 2)
        assert pool.status.waits_for_machine
        with pytest.raises(ExecutorLost) as lost:
            next(executor.run("job", VideoRequest(b"{}", VideoParams())))
        assert not lost.value.counted


def test_a_checkpoint_that_no_machine_has_fails_a_job(site: Site, tmp_path: Path) -> None:
    from tests.fakes.cluster_work import GATED, open_nothing

    with site.pool(open_work=open_nothing) as pool:
        crew = Crew(pool, tmp_path)
        with pytest.raises(ModelGated) as error:
            crew.start("job")
        assert error.value.message == GATED
        assert pool._failures == 0, "the next job gets as many tries"


def test_a_machine_without_the_checkpoint_is_passed_over_and_one_that_joins_is_used(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site.start(THIRD, NO_CHECKPOINT="1")
    with site.pool(least=3) as pool:
        eventually(lambda: pool.status.workers == 2 and "licence" in caplog.text, SECONDS)
        crew = Crew(pool, tmp_path)
        held = [crew.start(f"held-{n}", hold=str(tmp_path / "go")) for n in (1, 2)]
        assert {site.node_of(job).ip for job in held} == {FIRST, SECOND}
        executor = crew.executor()
        waiting = threading.Thread(target=executor.prepare, args=(lambda: True,), daemon=True)
        waiting.start()
        site.start(FOURTH, RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="1")
        waiting.join(SECONDS)
        assert not waiting.is_alive()
        third = Running(executor, "third", VideoRequest(b'{"steps": 9999, "step_s": 0.05}',
                                                        VideoParams()))  # fmt: skip
        assert site.node_of(third).ip == FOURTH
        site.nodes[FOURTH].process.send_signal(signal.SIGTERM)  # as `docker stop` does
        assert third.join().lost is not None
        assert not third.lost.counted, "the machine was taken away, it did not crash"
        (tmp_path / "go").touch()
        for n, job in enumerate(held, 1):
            crew.check(job, f"held-{n}")
    site.nodes[THIRD].kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_silent_machine_loses_its_job(
    site: Site, tmp_path: Path, number: signal.Signals
) -> None:
    with site.pool() as pool:
        crew = Crew(pool, tmp_path)
        job = crew.start("job", steps=9999, step_s=0.05)
        node = site.node_of(job)
        node.signal(number)
        again = crew.start("job")
        assert site.node_of(again) is not node
        crew.check(again, "job")
        assert job.join().lost is not None
        assert job.lost.counted
        assert crew.files() == ["job.mp4"]
    node.kill()
    site.start(node.ip)


def test_the_server_joins_anew_when_its_own_node_died(site: Site, tmp_path: Path) -> None:
    with site.pool() as pool:
        crew = Crew(pool, tmp_path)
        job = crew.start("job", steps=9999, step_s=0.05)
        site.nodes[OWN].kill()
        assert job.join().lost is not None
        site.start(OWN)
        crew.check(crew.start("job"), "job")


def test_the_server_outlives_the_head(site: Site, tmp_path: Path) -> None:
    with site.pool() as pool:
        crew = Crew(pool, tmp_path)
        goes_on = crew.start("goes-on", hold=str(tmp_path / "go"))
        goes_on.note  # noqa: B018 - it runs
        head = site.cluster.nodes[0]
        head.kill()
        (tmp_path / "go").touch()
        crew.check(goes_on, "goes-on")
        assert goes_on.lost is None, "a job that runs needs no head"
        for node in site.nodes.values():  # they end by themselves, and their supervisors start them
            node.kill()
        eventually(lambda: pool.status.notice is not None, SECONDS)
        site.start_head()
        site.start(OWN, FIRST)
        crew.check(crew.start("after"), "after")
        assert pool.status.notice is None
