"""Cluster benchmark: `python -m svd_core.benchmarks cluster`. A table, then a line of JSON.

Real Ray nodes run on loopback addresses of this machine, with pretended GPUs whose clips are two
seconds of sleep. Measured is what the queue and Ray add to that: throughput with more and more
workers, overhead, latency of events, processor time of the server, and how soon a job runs again
after its worker, its machine or the server was killed. With `--check` the exit code is 1 where a
figure misses its limit.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, redirect_stdout
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from svd_core.benchmarks.api_load import p95
from svd_core.benchmarks.cluster_nodes import HEAD, ROOT, LoopbackCluster, RayNode, ray_environment
from svd_core.benchmarks.cluster_work import open_work, photo, sleeping_work
from svd_core.cluster.config import ClusterConfig, prepare_environment
from svd_core.database import Database
from svd_core.errors import SvdError, ToolFailed
from svd_core.events import Event, Progress, Succeeded
from svd_core.jobs import (
    Executor,
    Job,
    JobPhotos,
    JobTable,
    LocalExecutor,
    QueueContext,
    QueueLimits,
    WorkerQueue,
)
from svd_core.jobs.queue import JobQueue
from svd_core.jobs.schema import State
from svd_core.params import VideoParams, VideoRequest
from svd_core.storage import PhotoStore, ResultStore

if TYPE_CHECKING:
    from svd_core.cluster.pool import WorkerPool

Figures = dict[str, Any]

BIG, FIRST, SECOND = "127.0.0.3", "127.0.0.4", "127.0.0.5"
"""Machines: one with all the GPUs, and two with one each, which are killed."""

CLIP = photo(preview=100_000, video=1_000_000)
"""A clip of two seconds, with previews."""

STORM = photo(steps=400, step_s=0.02, preview=100_000)
"""Fifty events a second."""

EMPTY = photo(steps=5, step_s=0.0)
LARGE_MB = 20
LARGE = photo(steps=5, step_s=0.0, frames=LARGE_MB * 1_000_000)
"""With the lossless frames of 25 frames of 1024x576."""

EVENTS_PER_CLIP = 32
"""Of SVD-XT with 25 steps, other stages included."""

ROUNDS = 4
"""Clips of each worker."""

JOBS_IN_TURN = 40
WAIT_S = 300.0


class Target(NamedTuple):
    figure: str
    label: str
    limit: float
    unit: str
    at_least: bool = False


TARGETS = (
    Target(
        "efficiency_percent", "throughput of {most} workers, of {most} times one", 95, "%", True
    ),
    Target("overhead_ms", "a job takes longer than its work", 30, "ms"),
    Target("latency_p95_ms", "event, from the worker to the queue, p95", 20, "ms"),
    Target("worker_killed_s", "worker killed: its job runs again after", 1, "s"),
    Target("node_killed_s", "machine killed", 5, "s"),
    Target("node_frozen_s", "machine silent", 15, "s"),
    Target("server_killed_s", "server killed: all jobs run, after its restart", 5, "s"),
)


def table(found: Figures) -> list[str]:
    """A line for each target: what was measured, the limit, and whether it holds."""
    lines = []
    for target in TARGETS:
        label = target.label.format(most=max(found["workers"]))
        value = f"{found[target.figure]:8.1f} {target.unit:2}"
        bound = "at least" if target.at_least else "at most"
        verdict = "holds" if holds(target, found) else "missed"
        lines.append(f"{label:48} {value}  {bound} {target.limit:3g} {target.unit:2}  {verdict}")
    for workers, percent in zip(found["workers"], found["efficiencies"], strict=True):
        lines.append(f"  {workers:3} workers: {percent:.1f} % of their time is work")
    lines.append(
        f"  the server takes {found['cpu_us_per_event']:.0f} us of a processor for an event, "
        f"{found['cpu_ms_per_job']:.0f} ms for a job and {found['cpu_ms_per_mb']:.1f} ms for a "
        "megabyte of its files"
    )
    lines.append(
        f"  half a core carries {found['events_per_s']:.0f} events a second, or "
        f"{found['clips_per_s']:.1f} clips of SVD-XT a second"
    )
    lines.append(f"  overhead of a job without a cluster: {found['local_overhead_ms']:.1f} ms")
    return lines


def holds(target: Target, found: Figures) -> bool:
    value = found[target.figure]
    return bool(value >= target.limit if target.at_least else value <= target.limit)


class TimedExecutor:
    """Executor that keeps the latency of each event, in seconds."""

    def __init__(self, inner: Executor, latencies: list[float]) -> None:
        self._inner = inner
        self._latencies = latencies

    def prepare(self, is_needed: Callable[[], bool]) -> bool:
        return self._inner.prepare(is_needed)

    def run(self, job_id: str, request: VideoRequest) -> Generator[Event]:
        with closing(self._inner.run(job_id, request)) as events:
            for event in events:
                if isinstance(event, Progress):
                    self._latencies.append(time.time() - event.elapsed_s)
                yield event

    def close(self) -> None:
        self._inner.close()


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
        with closing(WorkerPool(config, WorkerSettings("svd-nano", cpus=1), open_work)) as pool:
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
    table = JobTable(database)
    context = QueueContext(table, JobPhotos(table, PhotoStore(folder / "photos")), limits)
    queue = JobQueue(context) if executors is None else WorkerQueue(executors, context)
    try:
        yield queue
    finally:
        queue.close()
        database.close()


def submit(queue: JobQueue, image: bytes, count: int = 1) -> list[Job]:
    request = VideoRequest(image, VideoParams(seed=1))
    return [queue.submit(request) for _ in range(count)]


def run_jobs(
    folder: Path, image: bytes, count: int, executors: Sequence[Executor]
) -> tuple[float, float, float]:
    """Run jobs that wait already: seconds in all, of the works, and of this process's processor."""
    with open_queue(folder, None) as queue:
        ids = [job.id for job in submit(queue, image, count)]
    begun, cpu = time.monotonic(), time.process_time()
    with open_queue(folder, executors) as queue:
        wait_for(lambda: queue.length() == 0)
        jobs = [queue.get(job_id) for job_id in ids]
        wait_for(lambda: all(job.done for job in jobs))
        taken, cpu = time.monotonic() - begun, time.process_time() - cpu
        works = [work_s(job) for job in jobs]
    return taken, sum(works), cpu


def work_s(job: Job) -> float:
    if not isinstance(job.last, Succeeded):
        raise ToolFailed(f"A job of the benchmark failed: {job.last}.")
    return job.last.video.elapsed_s


def throughput(bench: Bench, workers: Sequence[int]) -> Figures:
    """How much of the time of all workers was work, for each number of them."""
    efficiencies: list[float] = []
    latencies: list[float] = []
    for count in workers:
        latencies = []
        folder = bench.new_folder()
        with bench.pool(count) as pool:
            inner = bench.executors(pool, ResultStore(folder / "results"), count)
            executors = [TimedExecutor(executor, latencies) for executor in inner]
            taken, works, _ = run_jobs(folder, CLIP, ROUNDS * count, executors)
        efficiencies.append(100 * works / (count * taken))
    return {
        "workers": list(workers),
        "efficiencies": efficiencies,
        "efficiency_percent": efficiencies[-1],
        "latency_p50_ms": 1000 * median(latencies),
        "latency_p95_ms": 1000 * p95(latencies),
    }


def overhead(bench: Bench) -> Figures:
    """Milliseconds of a job beside its work, one after another; and the same in this process."""
    folder = bench.new_folder()
    with bench.pool(1) as pool:
        executors = bench.executors(pool, ResultStore(folder / "results"), 1)
        taken, works, cpu = run_jobs(folder, EMPTY, JOBS_IN_TURN, executors)
    folder = bench.new_folder()
    with bench.pool(1) as pool:
        executors = bench.executors(pool, ResultStore(folder / "results"), 1)
        _, _, large_cpu = run_jobs(folder, LARGE, JOBS_IN_TURN, executors)
    folder = bench.new_folder()
    local: list[Executor] = [LocalExecutor(sleeping_work(ResultStore(folder / "results")))]
    local_taken, local_works, _ = run_jobs(folder, EMPTY, JOBS_IN_TURN, local)
    return {
        "overhead_ms": 1000 * (taken - works) / JOBS_IN_TURN,
        "local_overhead_ms": 1000 * (local_taken - local_works) / JOBS_IN_TURN,
        "cpu_ms_per_job": 1000 * cpu / JOBS_IN_TURN,
        "cpu_ms_per_mb": 1000 * (large_cpu - cpu) / (JOBS_IN_TURN * LARGE_MB),
    }


def server_load(bench: Bench, workers: int) -> Figures:
    """Processor time of this process for each event, while all workers report fifty a second."""
    folder, events = bench.new_folder(), json.loads(STORM)["steps"]
    with bench.pool(workers) as pool:
        executors = bench.executors(pool, ResultStore(folder / "results"), workers)
        _, _, cpu = run_jobs(folder, STORM, workers, executors)
    each = cpu / (events * workers)
    return {"cpu_us_per_event": 1e6 * each, "events_per_s": 0.5 / each}


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


def server_restart(bench: Bench, workers: int = 4) -> float:
    """Seconds from the restart of a killed server until all of its jobs run again."""
    folder = bench.new_folder()
    with open_queue(folder, None) as queue:
        ids = [job.id for job in submit(queue, photo(steps=3000), workers)]
    command = [sys.executable, "-m", "svd_core.benchmarks.cluster_server", str(folder)]
    command += [bench.cluster.address, HEAD, str(workers), f"{open_work.__module__}:open_work"]
    jobs = JobTable(Database(f"sqlite:///{folder / 'jobs.sqlite'}"))

    def running(attempt: int) -> bool:
        rows = jobs.get_many(ids)
        return all((row.state, row.attempt) == (State.RUNNING, attempt) for row in rows)

    with subprocess.Popen(command, cwd=ROOT) as server:  # noqa: S603 - our own
        try:
            wait_for(lambda: running(1))
        finally:
            server.kill()
    restarted = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT) as server:  # noqa: S603
        try:
            wait_for(lambda: running(2))
            return time.monotonic() - restarted
        finally:
            server.kill()
            jobs.database.close()


def wait_for(condition: Callable[[], object]) -> None:
    """Raises `ToolFailed` where that takes minutes."""
    until = time.monotonic() + WAIT_S
    pause = threading.Event()
    while not condition():
        if time.monotonic() > until:
            raise ToolFailed("The cluster of the benchmark does not answer.")
        pause.wait(0.005)


def measure(bench: Bench, workers: Sequence[int]) -> Figures:
    big = bench.start(BIG, max(workers))
    found = throughput(bench, workers) | overhead(bench) | server_load(bench, max(workers))
    found["clips_per_s"] = 0.5 / (
        found["cpu_us_per_event"] / 1e6 * EVENTS_PER_CLIP
        + found["cpu_ms_per_job"] / 1e3
        + found["cpu_ms_per_mb"] / 1e3 * LARGE_MB
    )
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


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    os.environ.update(ray_environment())
    prepare_environment(ClusterConfig(f"{HEAD}:6379"))
    try:
        # Ray prints what it hears from its nodes.
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
            cluster = LoopbackCluster(ray_environment())
            try:
                cluster.start_head().wait_until_up()
                found = measure(Bench(Path(folder), cluster), args.workers)
            finally:
                cluster.close()
    except SvdError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(*table(found), sep="\n")
    print(json.dumps({**rounded(found), "load_average": os.getloadavg()[0]}))
    return int(args.check and not all(holds(target, found) for target in TARGETS))


def rounded(found: Mapping[str, Any]) -> Figures:
    def shorten(value: Any) -> Any:
        if isinstance(value, list):
            return [shorten(each) for each in value]
        return round(value, 2) if isinstance(value, float) else value

    return {name: shorten(value) for name, value in found.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m svd_core.benchmarks cluster", description=__doc__
    )
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="how many at a time"
    )
    parser.add_argument("--check", action="store_true", help="exit by what was found")
    return parser
