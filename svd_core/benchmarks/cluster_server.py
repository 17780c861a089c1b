"""A server's queue on a cluster, as a process that can be killed at any moment.

`python -m svd_core.benchmarks.cluster_server FOLDER ADDRESS NODE_IP WORKERS MODULE:FUNCTION` owns
the job table in FOLDER and ends when all jobs have ended. The function is the `OpenWork` of its
workers.
"""

import sys
import threading
from contextlib import closing
from importlib import import_module
from pathlib import Path

from svd_core.cluster.config import ClusterConfig, prepare_environment
from svd_core.database import Database
from svd_core.errors import ToolFailed
from svd_core.jobs import JobTable, QueueContext, WorkerQueue
from svd_core.owner_lock import OwnerLock
from svd_core.storage import ResultStore

POLL_S = 0.05


def main(folder: Path, address: str, node_ip: str, workers: int, work: str) -> None:
    config = ClusterConfig(address, 0, workers, node_ip=node_ip)
    prepare_environment(config)
    from svd_core.cluster.executor import RayExecutor
    from svd_core.cluster.pool import WorkerPool
    from svd_core.cluster.worker import WorkerSettings

    module, _, name = work.partition(":")
    open_work = getattr(import_module(module), name)
    database, stop = Database(f"sqlite:///{folder / 'jobs.sqlite'}"), threading.Event()
    if not OwnerLock.of(database, folder, sys.exit).acquire(stop, print):
        raise ToolFailed("Another server owns the job table.")
    table, store = JobTable(database), ResultStore(folder / "results")
    with closing(WorkerPool(config, WorkerSettings("svd-nano", cpus=1), open_work)) as pool:
        executors = [RayExecutor(pool, store) for _ in range(workers)]
        with closing(WorkerQueue(executors, QueueContext(table)).start()) as queue:
            pool.start(queue.length)
            while table.open_jobs():
                stop.wait(POLL_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
