"""Cluster benchmark: `python -m svd_core.benchmarks cluster`. A table, then a line of JSON.

Real Ray nodes run on loopback addresses of this machine, with pretended GPUs whose clips are two
seconds of sleep. The figures are what the queue and Ray add to that: throughput by number of
workers, overhead, latency of events, and processor time of the server. They also show how soon a
job runs again after its worker, its machine or the server was killed.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, redirect_stdout
from pathlib import Path
from statistics import median
from typing import Any

from svd_core.benchmarks.cluster.bench import (
    BIG,
    Bench,
    open_database,
    open_queue,
    submit,
    wait_for,
)
from svd_core.benchmarks.cluster.nodes import (
    HEAD,
    ROOT,
    LoopbackCluster,
    RayNode,
    die_with_parent,
    ray_environment,
)
from svd_core.benchmarks.cluster.work import open_work, photo, sleeping_work
from svd_core.benchmarks.targets import Target, make_parser, p95, report
from svd_core.cluster.config import ClusterConfig, prepare_environment
from svd_core.errors import ToolFailed
from svd_core.events import Event, Progress, Succeeded
from svd_core.jobs import Executor, Job, JobTable, LocalExecutor
from svd_core.jobs.schema import State
from svd_core.params import VideoRequest
from svd_core.storage import ResultStore

Figures = dict[str, Any]

TARGETS = (
    Target("efficiency_percent", "throughput of all workers, of as many times one", 95, "%", True),
    Target("overhead_ms", "a job takes longer than its work", 30, "ms"),
    Target("latency_p95_ms", "event, from the worker to the queue, p95", 20, "ms"),
    Target("worker_killed_s", "worker killed: its job runs again after", 1, "s"),
    Target("node_killed_s", "machine killed", 5, "s"),
    Target("node_frozen_s", "machine silent", 15, "s"),
    Target("server_killed_s", "server killed: all jobs run, after its restart", 5, "s"),
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("cluster", __doc__)
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="numbers of workers"
    )
    parser.add_argument("--only", choices=("speed", "recovery"), help="measure one half")
    options = parser.parse_args(argv)
    os.environ.update(ray_environment())
    prepare_environment(ClusterConfig(f"{HEAD}:6379"))
    # Ray prints the messages of its nodes.
    with (
        tempfile.TemporaryDirectory() as folder,
        redirect_stdout(sys.stderr),
        closing(LoopbackCluster(ray_environment())) as cluster,
    ):
        cluster.start_head().wait_until_up()
        bench, figures = Bench(Path(folder), cluster), Figures()
        if options.only != "recovery":
            figures |= measure_speed(bench, options.workers)
        if options.only != "speed":
            figures |= measure_recovery(bench)
    notes = speed_lines(figures) if "workers" in figures else []
    return report(TARGETS, figures, options.check, notes)


# Speed

CLIP = photo(preview=100_000, video=1_000_000)
"""A clip of two seconds, with previews."""

STORM_STEPS = 400
STORM = photo(steps=STORM_STEPS, step_s=0.02, preview=100_000)
"""Fifty events a second."""

EMPTY = photo(steps=5, step_s=0.0)
LARGE_MB = 20
LARGE = photo(steps=5, step_s=0.0, frames=LARGE_MB * 1_000_000)
"""With the lossless frames of 25 frames of 1024x576."""

EVENTS_PER_CLIP = 32
"""Events of SVD-XT with 25 steps, other stages included."""

ROUNDS = 4
"""Clips of each worker."""

JOBS_IN_TURN = 40


def measure_speed(bench: Bench, workers: Sequence[int]) -> Figures:
    big = bench.start(BIG, max(workers))
    figures = throughput(bench, workers) | overhead(bench)
    _, _, cpu_s = run_on_cluster(bench, max(workers), STORM, max(workers))
    event_s = cpu_s / (STORM_STEPS * max(workers))
    big.kill()
    clip_ms = figures["cpu_ms_per_job"] + figures["cpu_ms_per_mb"] * LARGE_MB
    return figures | {
        "cpu_us_per_event": 1e6 * event_s,
        "events_per_s": 0.5 / event_s,
        "clips_per_s": 0.5 / (event_s * EVENTS_PER_CLIP + clip_ms / 1e3),
    }


def throughput(bench: Bench, workers: Sequence[int]) -> Figures:
    """Percentage of the time of all workers that was work, for each number of them."""
    efficiencies: list[float] = []
    latencies: list[float] = []
    for count in workers:
        latencies = []
        taken, works, _ = run_on_cluster(bench, count, CLIP, ROUNDS * count, latencies)
        efficiencies.append(100 * works / (count * taken))
    return {
        "workers": list(workers),
        "efficiencies": efficiencies,
        "efficiency_percent": efficiencies[-1],
        "latency_p50_ms": 1000 * median(latencies),
        "latency_p95_ms": 1000 * p95(latencies),
    }


def overhead(bench: Bench) -> Figures:
    """Milliseconds of a job beside its work, on the cluster and in this process."""
    taken, works, cpu = run_on_cluster(bench, 1, EMPTY, JOBS_IN_TURN)
    _, _, large_cpu = run_on_cluster(bench, 1, LARGE, JOBS_IN_TURN)
    folder = bench.new_folder()
    local = LocalExecutor(sleeping_work(ResultStore(folder / "results")))
    local_taken, local_works, _ = run_jobs(folder, EMPTY, JOBS_IN_TURN, [local])
    return {
        "overhead_ms": 1000 * (taken - works) / JOBS_IN_TURN,
        "local_overhead_ms": 1000 * (local_taken - local_works) / JOBS_IN_TURN,
        "cpu_ms_per_job": 1000 * cpu / JOBS_IN_TURN,
        "cpu_ms_per_mb": 1000 * (large_cpu - cpu) / (JOBS_IN_TURN * LARGE_MB),
    }


def run_on_cluster(
    bench: Bench, workers: int, image: bytes, count: int, latencies: list[float] | None = None
) -> tuple[float, float, float]:
    """`run_jobs` with that many workers; the latency of each event is added to `latencies`."""
    folder = bench.new_folder()
    with bench.executors(workers, folder) as executors:
        if latencies is not None:
            executors = [TimedExecutor(executor, latencies) for executor in executors]
        return run_jobs(folder, image, count, executors)


def run_jobs(
    folder: Path, image: bytes, count: int, executors: Sequence[Executor]
) -> tuple[float, float, float]:
    """Run waiting jobs: seconds in all, sum of the works, and processor time of this process."""
    with open_queue(folder) as queue:
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


class TimedExecutor:
    """Executor that records the latency of each event, in seconds."""

    def __init__(self, inner: Executor, latencies: list[float]) -> None:
        self._inner = inner
        self._latencies = latencies
        self.prepare = inner.prepare
        self.close = inner.close

    def run(self, job_id: str, request: VideoRequest) -> Generator[Event | None]:
        with closing(self._inner.run(job_id, request)) as events:
            for event in events:
                if isinstance(event, Progress):
                    self._latencies.append(time.time() - event.elapsed_s)
                yield event


def speed_lines(figures: Figures) -> list[str]:
    """Lines for figures that have no target."""
    shares = zip(figures["workers"], figures["efficiencies"], strict=True)
    return [
        *(
            f"  {count:3} workers: {percent:.1f} % of their time is work"
            for count, percent in shares
        ),
        f"  the server takes {figures['cpu_us_per_event']:.0f} us of a processor for an event, "
        f"{figures['cpu_ms_per_job']:.0f} ms for a job and {figures['cpu_ms_per_mb']:.1f} ms for a "
        "megabyte of its files",
        f"  half a core carries {figures['events_per_s']:.0f} events a second, or "
        f"{figures['clips_per_s']:.1f} clips of SVD-XT a second",
        f"  overhead of a job without a cluster: {figures['local_overhead_ms']:.1f} ms",
    ]


# Recovery

FIRST, SECOND = "127.0.0.4", "127.0.0.5"
"""Addresses of machines with a GPU each, which are killed."""

RESTARTED_WORKERS = 2
"""Their processes start side by side here, and on machines of their own in a real cluster."""


def measure_recovery(bench: Bench) -> Figures:
    figures = Figures()
    big = bench.start(BIG, RESTARTED_WORKERS)
    figures["worker_killed_s"] = recovery(bench, lambda pid: os.kill(pid, signal.SIGKILL))
    figures["server_killed_s"] = server_restart(bench)
    big.kill()
    nodes = {ip: bench.start(ip) for ip in (FIRST, SECOND)}

    def node_of(pid: int) -> RayNode:
        return next(node for node in nodes.values() if pid in node.pids())

    figures["node_frozen_s"] = recovery(bench, lambda pid: node_of(pid).signal(signal.SIGSTOP))
    for ip, node in nodes.items():  # the frozen one, and the other with its processes
        node.kill()
        nodes[ip] = bench.start(ip)
    figures["node_killed_s"] = recovery(bench, lambda pid: node_of(pid).kill())
    return figures


def recovery(bench: Bench, break_it: Callable[[int], None]) -> float:
    """Seconds until a job runs again after `break_it` got the id of its process. Another worker is
    loaded and idle."""
    folder = bench.new_folder()
    with (
        bench.executors(2, folder) as executors,
        open_queue(folder, executors) as queue,
    ):
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


def server_restart(bench: Bench) -> float:
    """Seconds from the restart of a killed server until all of its jobs run again."""
    folder = bench.new_folder()
    with open_queue(folder) as queue:
        ids = [job.id for job in submit(queue, photo(steps=3000), RESTARTED_WORKERS)]
    command = [sys.executable, "-m", "svd_core.benchmarks.cluster.bench", str(folder)]
    command += [bench.cluster.address, HEAD, f"{RESTARTED_WORKERS}"]
    command += [f"{open_work.__module__}:open_work"]
    with closing(open_database(folder)) as database:
        jobs = JobTable(database)

        def seconds_to(attempt: int) -> float:
            """Seconds from a start of the server until all jobs run in that attempt."""
            begun = time.monotonic()
            with subprocess.Popen(command, cwd=ROOT, preexec_fn=die_with_parent) as server:  # noqa: S603 - ours
                try:
                    running = (State.RUNNING, attempt)
                    wait_for(
                        lambda: {(r.state, r.attempt) for r in jobs.get_many(ids)} == {running}
                    )
                    return time.monotonic() - begun
                finally:
                    server.kill()

        seconds_to(1)
        return seconds_to(2)
