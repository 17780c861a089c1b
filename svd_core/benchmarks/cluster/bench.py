"""A pretended cluster for benchmarks: its machines, pools of workers, and queues.

`python -m svd_core.benchmarks.cluster.bench FOLDER ADDRESS NODE_IP WORKERS MODULE:FUNCTION` is the
queue of a server, as a process that can be killed at any moment. It owns the job table in FOLDER
and ends when all jobs have ended. The function is the `OpenWork` of its workers.

Ray is imported on demand, after its environment was prepared.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from svd_core.benchmarks.cluster.nodes import HEAD, LoopbackCluster, RayNode
from svd_core.benchmarks.cluster.work import open_work
from svd_core.cluster.config import ClusterConfig, prepare_environment
from svd_core.database import Database
from svd_core.errors import ToolFailed
from svd_core.jobs import Executor, Job, JobTable, QueueContext, QueueLimits, WorkerQueue
from svd_core.jobs.queue import JobQueue
from svd_core.owner_lock import OwnerLock
from svd_core.params import VideoParams, VideoRequest
from svd_core.storage import ResultStore

if TYPE_CHECKING:
    from svd_core.cluster.pool import WorkerPool
    from svd_core.cluster.worker import OpenWork

BIG = "127.0.0.3"
"""Address of the machine with many GPUs."""

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
    def executors(self, workers: int, folder: Path) -> Iterator[list[Executor]]:
        """Executors of a pool that has loaded all of its workers, with results in `folder`."""
        config = ClusterConfig(self.cluster.address, workers, workers, node_ip=HEAD)
        with open_pool(config, open_work) as pool:
            pool.start()
            wait_for(lambda: pool.status.state == "ready" and pool.status.workers == workers)
            yield make_executors(pool, folder, workers)


def open_pool(config: ClusterConfig, work: "OpenWork") -> "closing[WorkerPool]":
    from svd_core.cluster.pool import WorkerPool
    from svd_core.cluster.worker import WorkerSettings

    return closing(WorkerPool(config, WorkerSettings("svd-nano", cpus=1), work))


def make_executors(pool: "WorkerPool", folder: Path, count: int) -> list[Executor]:
    from svd_core.cluster.executor import RayExecutor

    store = ResultStore(folder / "results")
    return [RayExecutor(pool, store) for _ in range(count)]


def open_database(folder: Path) -> Database:
    return Database(f"sqlite:///{folder / 'jobs.sqlite'}")


@contextmanager
def open_queue(folder: Path, executors: Sequence[Executor] | None = None) -> Iterator[JobQueue]:
    """The queue in `folder`; without executors, one that only accepts jobs."""
    database = open_database(folder)
    context = QueueContext(JobTable(database), QueueLimits(max_queue=10_000))
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
    """Wait until `condition()` is true. Raises `ToolFailed` after `WAIT_S`."""
    until = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > until:
            raise ToolFailed("The cluster of the benchmark does not answer.")
        time.sleep(0.005)


def serve(folder: Path, address: str, node_ip: str, workers: int, work: str) -> None:
    config = ClusterConfig(address, 0, workers, node_ip=node_ip)
    prepare_environment(config)
    module, _, name = work.partition(":")
    database, stop = open_database(folder), threading.Event()
    if not OwnerLock.of(database, folder, sys.exit).acquire(stop, print):
        raise ToolFailed("Another server owns the job table.")
    table = JobTable(database)
    with open_pool(config, getattr(import_module(module), name)) as pool:
        executors = make_executors(pool, folder, workers)
        with closing(WorkerQueue(executors, QueueContext(table)).start()) as queue:
            pool.start(queue.length)
            while table.open_jobs():
                time.sleep(0.05)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
