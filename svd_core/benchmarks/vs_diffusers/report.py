"""Report of a comparison: figures by variant, as a table and as JSON."""

import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Any

import diffusers
import torch

from svd_core.benchmarks.roofline import min_step_s
from svd_core.benchmarks.vs_diffusers.parity import Parity
from svd_core.benchmarks.vs_diffusers.timing import ClipTiming
from svd_core.benchmarks.vs_diffusers.variants import COMPILED, OURS, STOCK
from svd_core.params import VideoParams


def result(
    model: str,
    device: str,
    timings: dict[str, list[ClipTiming]],
    verdict: Parity,
    stock: Any,
    params: VideoParams,
) -> dict[str, Any]:
    """Medians over all clips but each contestant's first, which warms up and may compile.

    `shots`: of all who made two or more, stock among them. What ours did not make is None.
    """
    lowest = min_step_s(stock, timings[STOCK][0].latents, params)
    rows = {name: _row(name, made, verdict, lowest) for name, made in timings.items()}

    def speedup(name: str, figure: str) -> float | None:
        if not {name, OURS} <= set(rows):
            return None
        ratio: float = rows[name][figure] / rows[OURS][figure]
        return ratio

    ours = rows.get(OURS, {})
    return {
        "model": model,
        "device": device,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "diffusers": diffusers.__version__},
        "clips": len(timings[STOCK]) - 1,
        "speedup_vs_stock": speedup(STOCK, "seconds"),
        "speedup_vs_stock_cpu": speedup(STOCK, "cpu_s"),
        "speedup_vs_compiled_stock": speedup(COMPILED, "seconds"),
        "max_abs_diff": verdict.frames.get(OURS),
        "seconds_per_clip": ours.get("seconds"),
        "peak_memory_mb": ours.get("peak_mb"),
        "peak_memory_mb_stock": rows[STOCK]["peak_mb"],
        "contestants": rows,
    }  # fmt: skip


def _row(name: str, made: Sequence[ClipTiming], verdict: Parity, lowest: float) -> dict[str, Any]:
    def middle(of: Callable[[ClipTiming], float]) -> float:
        return median(of(timing) for timing in made[1:])

    step = middle(lambda timing: timing.step_s)
    return {
        "seconds": middle(lambda timing: timing.seconds),
        "cpu_s": middle(lambda timing: timing.cpu_s),
        "encode_s": middle(lambda timing: timing.encode_s),
        "step_s": step,
        "decode_s": middle(lambda timing: timing.decode_s),
        "peak_mb": max(timing.peak_mb for timing in made[1:]),
        "first_s": made[0].seconds,
        "share_of_floor": lowest / step if name in verdict.output_difference else None,
        "answer_off": verdict.output_difference.get(name),
        "error_vs_stocks": (verdict.ratio or {}).get(name),
        "pixel_off": verdict.frames[name],
        "pixels_changed": verdict.changed[name],
    }


def _cell(value: float | None, form: str) -> str:
    return f"{'-':>{_width(form)}}" if value is None else f"{value:{form}}"


def _width(form: str) -> int:
    return int(form.partition(".")[0].rstrip("d"))


COLUMNS = (
    ("s/clip", "seconds", "8.2f"), ("cpu s", "cpu_s", "8.2f"), ("encode", "encode_s", "7.2f"),
    ("s/step", "step_s", "8.3f"), ("decode", "decode_s", "7.2f"), ("peak MB", "peak_mb", "8.0f"),
    ("first", "first_s", "7.1f"), ("of floor", "share_of_floor", "9.0%"),
    ("UNet off", "answer_off", "9.1e"), ("/255", "pixel_off", "5d"),
)  # fmt: skip


def show(found: dict[str, Any]) -> None:
    rows = found["contestants"]
    print(f"{found['model']} on {found['device']}, median of {found['clips']} clips of stock")
    heads = (f"{head:>{_width(form)}}" for head, _, form in COLUMNS)
    print(f"{'':24}", *heads, "  x stock")
    for name, row in rows.items():
        cells = (_cell(row[key], form) for _, key, form in COLUMNS)
        print(f"{name:24}", *cells, f"{rows[STOCK]['seconds'] / row['seconds']:8.2f}x")
    told = rows.get(OURS, {}).get("error_vs_stocks")
    if told is not None:
        print(f"Against the next wider precision ours is {told:.2f} times as far off as stock.")
