"""A pretended cluster for tests: its nodes, and executors that run jobs on them."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svd_core.benchmarks.cluster.nodes import LoopbackCluster, RayNode, ray_environment
from svd_core.cluster.config import HEALTH_CHECKS, ClusterConfig
from svd_core.events import Event, Progress, Succeeded
from svd_core.jobs.interface import ExecutorLost
from svd_core.params import VideoParams, VideoRequest
from svd_core.storage import ResultStore
from tests.fakes.job_events import eventually

if TYPE_CHECKING:
    from svd_core.cluster.executor import RayExecutor
    from svd_core.cluster.pool import WorkerPool

SECONDS = 120.0
"""Far more than anything takes on a machine that has nothing else to do."""

OWN = "127.0.0.9"
"""Address of the node of the server, which has no GPU."""


class Site:
    """The nodes of the pretended cluster, by address."""

    def __init__(self) -> None:
        checks = dict(zip(HEALTH_CHECKS, ("500", "1500", "500", "3"), strict=True))
        self.cluster = LoopbackCluster(ray_environment(), checks)
        self.nodes: dict[str, RayNode] = {}

    def start_head(self) -> None:
        self.head = self.cluster.start_head().wait_until_up()

    def start(self, *ips: str, **environ: str) -> None:
        """Start nodes at these addresses at the same time; all but the server's have a GPU."""
        for ip in ips:
            self.nodes[ip] = self.cluster.start_node(ip, gpus=int(ip != OWN), **environ)
        for ip in ips:
            self.nodes[ip].wait_until_up()

    @contextmanager
    def pool(self, least: int = 0, most: int = 4, **options: Any) -> Iterator["WorkerPool"]:
        from svd_core.cluster.pool import WorkerPool
        from svd_core.cluster.worker import WorkerSettings
        from tests.fakes.cluster_work import open_work

        idle_s = options.pop("idle_s", 300.0)
        config = ClusterConfig(self.cluster.address, least, most, idle_s, node_ip=OWN)
        options.setdefault("open_work", open_work)
        settings = WorkerSettings("svd-nano", cpus=1)
        with closing(WorkerPool(config, settings, **options).start()) as pool:
            yield pool


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
    def place(self) -> tuple[str, str]:
        """Address of the machine that works on it, and the process; waits until it is known."""
        eventually(lambda: self.events, SECONDS)
        first = self.events[0]
        assert isinstance(first, Progress)
        assert first.note is not None
        ip, pid = first.note.split()
        return ip, pid

    def stop(self) -> None:
        self._stop.set()
        self.join()

    def join(self) -> "Running":
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()
        return self

    def check_lost(self, *, counted: bool) -> None:
        self.join()
        assert self.lost is not None, self.last
        assert self.lost.counted == counted, self.lost.reason

    def _work(self) -> None:
        try:
            with closing(self._run()) as events:
                for event in events:
                    if event is not None:
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
        self.go = folder / "go"
        self.store = ResultStore(folder / "results")
        self.executor: Callable[[], RayExecutor] = lambda: RayExecutor(pool, self.store)

    def start(self, job_id: str, continues: str | None = None, **spec: object) -> Running:
        """Start a job on a worker that has nothing to do."""
        return self.submit(job_id, json.dumps(spec).encode(), VideoParams(seed=7), continues)

    def submit(
        self, job_id: str, photo: bytes, params: VideoParams, continues: str | None = None
    ) -> Running:
        executor, until = self.executor(), time.monotonic() + SECONDS
        assert executor.prepare(lambda: time.monotonic() < until), "no worker"
        return Running(executor, job_id, VideoRequest(photo, params, continues))

    def hold(self, job_id: str) -> Running:
        """Start a job that stays in its last step until `release`."""
        return self.start(job_id, hold=str(self.go))

    def release(self, *jobs: tuple[Running, str]) -> None:
        self.go.touch()
        for job, job_id in jobs:
            self.check(job, job_id)

    def check(self, job: Running, job_id: str, mkv: int = 0) -> None:
        """The job has ended with its files."""
        job.join()
        assert job.lost is None, job.lost
        assert isinstance(job.last, Succeeded), job.last
        assert job.last.video.path == self.store.path(job_id)
        assert job.last.video.path.stat().st_size > 1000
        assert self.store.frames_path(job_id).exists() == bool(mkv)
        assert all(isinstance(event, Progress) for event in job.events[:-1])
