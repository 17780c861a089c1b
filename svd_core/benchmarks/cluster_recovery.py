"""Recovery of a cluster: how soon a job runs again after its worker, its machine or the server was
killed. Part of the cluster benchmark.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from svd_core.benchmarks.cluster_bench import BIG, Bench, open_queue, submit, wait_for
from svd_core.benchmarks.cluster_nodes import HEAD, ROOT, RayNode, die_with_parent
from svd_core.benchmarks.cluster_work import open_work, photo
from svd_core.database import Database
from svd_core.events import Progress
from svd_core.jobs import Job, JobTable
from svd_core.jobs.schema import State
from svd_core.storage import ResultStore

FIRST, SECOND = "127.0.0.4", "127.0.0.5"
"""Machines with a GPU each, which are killed."""

RESTARTED_WORKERS = 2
"""Their processes start side by side here, and on machines of their own in a real cluster."""


def recovery(bench: Bench, break_it: Callable[[int], None]) -> float:
    """Seconds until a job runs again that was running on the process given to `break_it`. Another
    worker is loaded and idle."""
    folder = bench.new_folder()
    with bench.pool(2) as pool:
        executors = bench.executors(pool, ResultStore(folder / "results"), 2)
        with open_queue(folder, executors) as queue:
            (job,) = submit(queue, photo(steps=3000))
            wait_for(lambda: pid_of(job) is not None)
            victim = pid_of(job)
            assert victim is not None
            broken = time.monotonic()
            break_it(victim)
            wait_for(lambda: pid_of(job) not in (None, victim))
            taken = time.monotonic() - broken
            job.cancel()
            wait_for(lambda: job.done)
    return taken


def pid_of(job: Job) -> int | None:
    """The process that works on a job now."""
    match job.last:
        case Progress(note=str(note), elapsed_s=reported) if reported and note.isdigit():
            return int(note)
    return None


def server_restart(bench: Bench, workers: int = RESTARTED_WORKERS) -> float:
    """Seconds from the restart of a killed server until all of its jobs run again."""
    folder = bench.new_folder()
    with open_queue(folder, None) as queue:
        ids = [job.id for job in submit(queue, photo(steps=3000), workers)]
    command = [sys.executable, "-m", "svd_core.benchmarks.cluster_server", str(folder)]
    command += [bench.cluster.address, HEAD, str(workers), f"{open_work.__module__}:open_work"]
    jobs = JobTable(Database(f"sqlite:///{folder / 'jobs.sqlite'}"))

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, cwd=ROOT, preexec_fn=die_with_parent)  # noqa: S603 - ours

    def running(attempt: int) -> bool:
        rows = jobs.get_many(ids)
        return all((row.state, row.attempt) == (State.RUNNING, attempt) for row in rows)

    with start() as server:
        try:
            wait_for(lambda: running(1))
        finally:
            server.kill()
    restarted = time.monotonic()
    with start() as server:
        try:
            wait_for(lambda: running(2))
            return time.monotonic() - restarted
        finally:
            server.kill()
            jobs.database.close()


def measure_recovery(bench: Bench) -> dict[str, float]:
    found: dict[str, float] = {}
    big = bench.start(BIG, RESTARTED_WORKERS)
    found["worker_killed_s"] = recovery(bench, lambda pid: os.kill(pid, signal.SIGKILL))
    found["server_killed_s"] = server_restart(bench)
    big.kill()
    nodes = {ip: bench.start(ip) for ip in (FIRST, SECOND)}

    def node_of(pid: int) -> RayNode:
        return next(node for node in nodes.values() if pid in node.pids())

    found["node_frozen_s"] = recovery(bench, lambda pid: node_of(pid).signal(signal.SIGSTOP))
    for ip, node in nodes.items():  # the frozen one, and the other with what ran there
        node.kill()
        nodes[ip] = bench.start(ip)
    found["node_killed_s"] = recovery(bench, lambda pid: node_of(pid).kill())
    return found
