"""A pretended cluster for benchmarks: its machines, pools of workers, and queues.

Ray is imported on demand, after its environment was prepared.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from svd_core.benchmarks.cluster_nodes import HEAD, LoopbackCluster, RayNode
from svd_core.benchmarks.cluster_work import open_work
from svd_core.cluster.config import ClusterConfig
from svd_core.database import Database
from svd_core.errors import ToolFailed
from svd_core.jobs import (
    Executor,
    Job,
    JobTable,
    QueueContext,
    QueueLimits,
    WorkerQueue,
)
from svd_core.jobs.queue import JobQueue
from svd_core.params import VideoParams, VideoRequest
from svd_core.storage import ResultStore

if TYPE_CHECKING:
    from svd_core.cluster.pool import WorkerPool

BIG = "127.0.0.3"
"""Machine with all the GPUs."""

WAIT_S = 300.0


class Bench:
    """A pretended cluster with a data folder."""

    def __init__(self, folder: Path, cluster: LoopbackCluster) -> None:
        self.folder = folder
        self.cluster = cluster
        self._runs = 0

    def new_folder(self) -> Path:
        self._runs += 1
        folder = self.folder / str(self._runs)
        folder.mkdir()
        return folder

    def start(self, ip: str, gpus: int = 1) -> RayNode:
        return self.cluster.start_node(ip, gpus, os.cpu_count() or 1).wait_until_up()

    @contextmanager
    def pool(self, workers: int) -> Iterator["WorkerPool"]:
        """A pool that has all of its workers loaded."""
        from svd_core.cluster.pool import WorkerPool
        from svd_core.cluster.worker import WorkerSettings

        config = ClusterConfig(self.cluster.address, workers, workers, node_ip=HEAD)
        settings = WorkerSettings("svd-nano", cpus=1)
        with closing(WorkerPool(config, settings, open_work).start()) as pool:
            wait_for(lambda: pool.status.state == "ready" and pool.status.workers == workers)
            yield pool

    def executors(self, pool: "WorkerPool", store: ResultStore, count: int) -> list[Executor]:
        from svd_core.cluster.executor import RayExecutor

        return [RayExecutor(pool, store) for _ in range(count)]


@contextmanager
def open_queue(folder: Path, executors: Sequence[Executor] | None) -> Iterator[JobQueue]:
    """The queue in `folder`; without executors, one that only takes jobs."""
    database = Database(f"sqlite:///{folder / 'jobs.sqlite'}")
    limits = QueueLimits(max_queue=10_000)
    context = QueueContext(JobTable(database), limits)
    queue = JobQueue(context) if executors is None else WorkerQueue(executors, context)
    try:
        yield queue.start()
    finally:
        queue.close()
        database.close()


def submit(queue: JobQueue, image: bytes, count: int = 1) -> list[Job]:
    request = VideoRequest(image, VideoParams(seed=1))
    return [queue.submit(request) for _ in range(count)]


def wait_for(condition: Callable[[], object]) -> None:
    """Raises `ToolFailed` where that takes minutes."""
    until = time.monotonic() + WAIT_S
    pause = threading.Event()
    while not condition():
        if time.monotonic() > until:
            raise ToolFailed("The cluster of the benchmark does not answer.")
        pause.wait(0.005)
