"""Milliseconds of the GPU by kind of kernel, and how long it was idle; the longest in a file."""

import re
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from svd_core.benchmarks.gpu.timing import Timer, Work

KINDS = (
    ("to GPU", r"Memcpy HtoD"),
    ("from GPU", r"Memcpy DtoH"),
    ("attention", r"flash|fmha|sdpa|attention|cudnn_generated_fort"),
    (
        "norm",
        r"RowwiseMoments|Group_?Norm|Layer_?Norm|ComputeFusedParams|batch_norm|_moments|_apply_",
    ),
    ("layout", r"nchwToNhwc|nhwcToNchw|convertTensor|transpose"),
    ("convolution", r"fprop|conv|implicit|dgrad|xmma.*nhwc|winograd"),
    ("product", r"gemm|nvjet|cutlass|cublas|Kernel2"),
    ("concatenation", r"CatArray"),
    ("copy", r"copy|Memcpy|Memset"),
    ("pointwise", r"elementwise|vectorized|unrolled|lerp|gelu|silu|add|mul"),
)
"""Regular expressions of kernels' names by kind; the first that fits counts."""

LONGEST = 45


def profile_kernels(timer: Timer, work: Work, name: str, folder: Path) -> dict[str, Any]:
    """Run `work` once under torch's profiler; kernels of the CPU where there is no GPU."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if timer.cuda else [])]
    with profile(activities=activities) as seen:
        wall_ms = 1e3 * timer.once(work)
    rows = sorted(_rows(seen, timer.cuda), reverse=True)
    kinds: dict[str, float] = {}
    for ms, _, kind, _ in rows:
        kinds[kind] = kinds.get(kind, 0.0) + ms
    busy_ms = sum(kinds.values())
    with (folder / "profile.txt").open("a", encoding="utf-8") as file:
        print(f"\n{name}", file=file)
        for ms, count, kind, key in rows[:LONGEST]:
            print(f"{ms:9.3f} ms {count:5d} x {kind:13} {key}", file=file)
    by_ms = sorted(kinds.items(), key=lambda item: -item[1])
    return {
        "ms": {kind: round(ms, 2) for kind, ms in by_ms},
        "busy_ms": round(busy_ms, 1),
        "idle_ms": round(max(0.0, wall_ms - busy_ms), 1),
        "kernels": sum(count for _, count, _, _ in rows),
    }


def kind_of(kernel: str) -> str:
    return next((kind for kind, form in KINDS if re.search(form, kernel, re.IGNORECASE)), "other")


def _rows(seen: Any, cuda: bool) -> list[tuple[float, int, str, str]]:
    """(milliseconds, count, kind, name) of each kernel."""
    rows = []
    for event in seen.key_averages():
        microseconds = event.self_device_time_total if cuda else event.self_cpu_time_total
        if microseconds > 0 and (not cuda or event.device_type.name == "CUDA"):
            kind = kind_of(event.key)
            rows.append((microseconds / 1e3, event.count, kind, event.key[:150]))
    return rows
