"""Cost of one video: `python -m svd_core.benchmarks --model svd-nano`. A table, then JSON.

One warm-up, then `--runs` videos of one photo; medians. The first video of a process and its peak
memory are measured in a fresh process, the page by starting `app.py` on a free port. Stage times
come from the progress events of a video.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from svd_core.benchmarks.server_process import example_photo, running_server
from svd_core.benchmarks.targets import print_json
from svd_core.engine.engine import Engine, SvdEngine
from svd_core.events import Progress, Stage
from svd_core.generate import generate
from svd_core.params import VideoParams, VideoRequest
from svd_core.storage import ResultStore


@dataclass
class Stopwatch:
    """Records when each progress event came."""

    started: float = field(default_factory=time.perf_counter)
    events: list[tuple[float, Progress]] = field(default_factory=list)

    def __call__(self, progress: Progress) -> None:
        self.events.append((time.perf_counter() - self.started, progress))

    def stages(self, end: float) -> dict[str, float]:
        """Seconds per stage; a stage lasts until the first event of the next one."""
        ends = [at for at, _ in self.events[1:]] + [end]
        seconds: dict[str, float] = {}
        for (at, progress), until in zip(self.events, ends, strict=True):
            seconds[progress.stage] = seconds.get(progress.stage, 0.0) + until - at
        return seconds

    def step_s(self) -> float:
        """Seconds per denoising step; 0 with fewer than two events."""
        steps = [(at, p.step) for at, p in self.events if p.stage is Stage.DENOISING]
        if len(steps) < 2:
            return 0.0
        (begun, first), *_, (ended, last) = steps
        return (ended - begun) / (last - first)


def medians(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Median of each figure, and of each stage; so stages need not add up to `seconds` exactly."""
    return {
        name: medians([run[name] for run in runs])
        if isinstance(value, dict)
        else median(run[name] for run in runs)
        for name, value in runs[0].items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m svd_core.benchmarks", description=__doc__)
    parser.add_argument("--model", default="svd-nano", help="as for python -m svd_core")
    parser.add_argument("--runs", type=int, default=3, help="videos to take the median of")
    parser.add_argument("--photo", type=Path, default=example_photo(), help="default: an example")
    parser.add_argument("--no-page", action="store_true", help="do not start app.py")
    options = parser.parse_args(argv)
    if options.runs < 1:
        parser.error("at least one run is needed")
    _print(_measure(options))
    return 0


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    # First, while this process is small: the peak of a child starts at that of its parent.
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh_process:
        fresh = fresh_process.submit(_cold_start, options.model, options.photo).result()
    page_s = None if options.no_page else seconds_to_page(options.model)
    engine = SvdEngine(options.model, fallback=False)
    image = options.photo.read_bytes()
    measured_run(engine, image)
    runs = [measured_run(engine, image) for _ in range(options.runs)]
    return {
        "model": engine.status.checkpoint.name,
        "device": engine.status.device,
        "runs": options.runs,
        **medians(runs),
        **fresh,
        "page_s": page_s,
    }


def measured_run(engine: Engine, image: bytes) -> dict[str, Any]:
    """Make one video, always with the same seed, and delete it.

    Returns seconds: to the mp4, to the first event, per step and per stage. `cpu_s`: of all
    processors together, the video encoder's included.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = ResultStore(Path(folder))
        request = VideoRequest(image, VideoParams(seed=0))
        cpu = _cpu_seconds()
        watch = Stopwatch()
        generate(request, engine, store, "bench", watch)
        seconds = time.perf_counter() - watch.started
    return {
        "seconds": seconds,
        "first_event_s": watch.events[0][0],
        "step_s": watch.step_s(),
        "cpu_s": _cpu_seconds() - cpu,
        "stages": watch.stages(seconds),
    }


def _cold_start(model: str, photo: Path) -> dict[str, float]:
    """Cost of the first video in this process."""
    started = time.perf_counter()
    run = measured_run(SvdEngine(model, fallback=False), photo.read_bytes())
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {
        "first_video_s": time.perf_counter() - started,
        "first_video_event_s": run["first_event_s"],
        "peak_rss_gb": peak / 1e9,
    }


def seconds_to_page(model: str) -> float:
    """Seconds until `python app.py` serves its page. Raises `ToolFailed`."""
    started = time.perf_counter()
    with running_server(path="/", model=model):
        return time.perf_counter() - started


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _print(result: dict[str, Any]) -> None:
    """Print the table, and a last line of JSON."""
    print(f"{result['model']} on {result['device']}, median of {result['runs']} videos")
    for label, value, unit in (
        ("request to mp4", result["seconds"], "s"),
        *((f"  {stage}", seconds, "s") for stage, seconds in result["stages"].items()),
        ("one denoising step", result["step_s"], "s"),
        ("time of all processors", result["cpu_s"], "s"),
        ("first report", result["first_event_s"], "s"),
        ("first video of a fresh process", result["first_video_s"], "s"),
        ("  its first report", result["first_video_event_s"], "s"),
        ("  its peak memory", result["peak_rss_gb"], "GB"),
        ("page served after", result["page_s"], "s"),
    ):
        print(f"{label:32}", "not measured" if value is None else f"{value:8.3f} {unit}")
    print_json(result)
