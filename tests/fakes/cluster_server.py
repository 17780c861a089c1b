"""A server whose jobs run on GPU workers, as a process of its own: `FOLDER ADDRESS NODE_IP`.

It owns the job table in a folder, and ends when all jobs have ended.
"""

import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from svd_core.cluster.config import ClusterConfig, prepare_environment
from svd_core.jobs import Database, JobTable, OwnerLock, QueueContext, WorkerQueue
from svd_core.storage import PhotoStore, ResultStore

POLL_S = 0.05


def main(folder: Path, address: str, node_ip: str) -> None:
    config = ClusterConfig(address, 0, 2, node_ip=node_ip)
    prepare_environment(config)
    from svd_core.cluster.executor import RayExecutor
    from svd_core.cluster.pool import WorkerPool
    from svd_core.cluster.worker import WorkerSettings
    from tests.fakes.cluster_work import open_work

    database, stop = Database(f"sqlite:///{folder / 'jobs.sqlite'}"), threading.Event()
    assert OwnerLock(database, folder, pytest.fail).acquire(stop, pytest.fail)
    table, store = JobTable(database), ResultStore(folder / "results")
    with closing(WorkerPool(config, WorkerSettings("svd-nano", cpus=1), open_work)) as pool:
        executors = [RayExecutor(pool, store) for _ in range(config.most)]
        context = QueueContext(table, PhotoStore(folder / "photos"))
        with closing(WorkerQueue(executors, context)):
            while table.open_jobs():
                stop.wait(POLL_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
