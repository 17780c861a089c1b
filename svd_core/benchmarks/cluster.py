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
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, redirect_stdout
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from svd_core.benchmarks.api_load import p95
from svd_core.benchmarks.cluster_bench import BIG, Bench, open_queue, submit, wait_for
from svd_core.benchmarks.cluster_nodes import (
    HEAD,
    LoopbackCluster,
    ray_environment,
)
from svd_core.benchmarks.cluster_recovery import measure_recovery
from svd_core.benchmarks.cluster_work import photo, sleeping_work
from svd_core.cluster.config import ClusterConfig, prepare_environment
from svd_core.errors import SvdError, ToolFailed
from svd_core.events import Event, Progress, Succeeded
from svd_core.jobs import (
    Executor,
    Job,
    LocalExecutor,
)
from svd_core.params import VideoRequest
from svd_core.storage import ResultStore

Figures = dict[str, Any]

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
    for target in measured_targets(found):
        label = target.label.format(most=max(found.get("workers", [0])))
        value = f"{found[target.figure]:8.1f} {target.unit:2}"
        bound = "at least" if target.at_least else "at most"
        verdict = "holds" if holds(target, found) else "missed"
        lines.append(f"{label:48} {value}  {bound} {target.limit:3g} {target.unit:2}  {verdict}")
    if "workers" in found:
        lines += speed_lines(found)
    return lines


def speed_lines(found: Figures) -> list[str]:
    """Lines for figures that have no target."""
    lines = [
        f"  {workers:3} workers: {percent:.1f} % of their time is work"
        for workers, percent in zip(found["workers"], found["efficiencies"], strict=True)
    ]
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


def measured_targets(found: Figures) -> list[Target]:
    return [target for target in TARGETS if target.figure in found]


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

    def run(self, job_id: str, request: VideoRequest) -> Generator[Event | None]:
        with closing(self._inner.run(job_id, request)) as events:
            for event in events:
                if isinstance(event, Progress):
                    self._latencies.append(time.time() - event.elapsed_s)
                yield event

    def close(self) -> None:
        self._inner.close()


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


def measure_speed(bench: Bench, workers: Sequence[int]) -> Figures:
    big = bench.start(BIG, max(workers))
    found = throughput(bench, workers) | overhead(bench) | server_load(bench, max(workers))
    found["clips_per_s"] = 0.5 / (
        found["cpu_us_per_event"] / 1e6 * EVENTS_PER_CLIP
        + found["cpu_ms_per_job"] / 1e3
        + found["cpu_ms_per_mb"] / 1e3 * LARGE_MB
    )
    big.kill()
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
                bench, found = Bench(Path(folder), cluster), Figures()
                if args.only != "recovery":
                    found |= measure_speed(bench, args.workers)
                if args.only != "speed":
                    found |= measure_recovery(bench)
            finally:
                cluster.close()
    except SvdError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(*table(found), sep="\n")
    print(json.dumps({**rounded(found), "load_average": os.getloadavg()[0]}))
    return int(args.check and not all(holds(each, found) for each in measured_targets(found)))


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
    parser.add_argument("--only", choices=("speed", "recovery"), help="measure one half")
    parser.add_argument("--check", action="store_true", help="exit by what was found")
    return parser
