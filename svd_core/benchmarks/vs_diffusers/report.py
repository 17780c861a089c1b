"""Report of a comparison: figures by variant, as a table and as JSON.

The roofline is the least time of a step, from its operations and the measured matmul rate.
"""

import platform
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Any

import diffusers
import torch
from torch import Tensor

from svd_core.benchmarks.memory_plans import count_flops, run_step
from svd_core.benchmarks.vs_diffusers.parity import Parity
from svd_core.benchmarks.vs_diffusers.timing import ClipTiming
from svd_core.benchmarks.vs_diffusers.variants import COMPILED, OURS, STOCK
from svd_core.engine.pipeline_loader import CLASSES
from svd_core.params import VideoParams


def result(
    model: str,
    device: str,
    timings: dict[str, list[ClipTiming]],
    verdict: Parity,
    stock: Any,
    params: VideoParams,
) -> dict[str, Any]:
    """Result as JSON: medians over all clips of a variant except its first, which may compile.

    `timings`: of all variants with two clips or more, stock among them. Without ours, its figures
    are None.
    """
    lowest = min_step_s(stock, timings[STOCK][0].latents, params)
    rows = {name: _row(name, made, verdict, lowest) for name, made in timings.items()}

    def speedup(name: str, figure: str) -> float | None:
        return rows[name][figure] / rows[OURS][figure] if {name, OURS} <= set(rows) else None

    ours = rows.get(OURS, {})
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__}
    return {
        "model": model,
        "device": device,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"python": platform.python_version(), **versions},
        "clips": len(timings[STOCK]) - 1,
        "speedup_vs_stock": speedup(STOCK, "seconds"),
        "speedup_vs_stock_cpu": speedup(STOCK, "cpu_s"),
        "speedup_vs_compiled_stock": speedup(COMPILED, "seconds"),
        "max_abs_diff": verdict.frames.get(OURS),
        "seconds_per_clip": ours.get("seconds"),
        "peak_memory_mb": ours.get("peak_mb"),
        "peak_memory_mb_stock": rows[STOCK]["peak_mb"],
        "contestants": rows,
    }


def _row(name: str, made: Sequence[ClipTiming], verdict: Parity, lowest: float) -> dict[str, Any]:
    clips = [clip.figures() for clip in made[1:]]
    medians = {figure: median(clip[figure] for clip in clips) for figure in clips[0]}
    return medians | {
        "peak_mb": max(clip["peak_mb"] for clip in clips),
        "first_s": made[0].seconds,
        "share_of_floor": lowest / medians["step_s"] if name in verdict.output_difference else None,
        "answer_off": verdict.output_difference.get(name),
        "error_vs_stocks": (verdict.ratio or {}).get(name),
        "pixel_off": verdict.frames[name],
        "pixels_changed": verdict.changed[name],
    }


COLUMNS = (
    ("s/clip", "seconds", 8, ".2f"), ("cpu s", "cpu_s", 8, ".2f"),
    ("encode", "encode_s", 7, ".2f"), ("s/step", "step_s", 8, ".3f"),
    ("decode", "decode_s", 7, ".2f"), ("peak MB", "peak_mb", 8, ".0f"),
    ("first", "first_s", 7, ".1f"), ("of floor", "share_of_floor", 9, ".0%"),
    ("UNet off", "answer_off", 9, ".1e"), ("/255", "pixel_off", 5, "d"),
)  # fmt: skip
"""Head, figure, width and format of each column."""


def show(report: dict[str, Any]) -> None:
    rows = report["contestants"]
    print(f"{report['model']} on {report['device']}, median of {report['clips']} clips of stock")
    print(f"{'':24}", *(f"{head:>{width}}" for head, _, width, _ in COLUMNS), "  x stock")
    for name, row in rows.items():
        cells = (
            f"{'-' if row[key] is None else format(row[key], form):>{width}}"
            for _, key, width, form in COLUMNS
        )
        print(f"{name:24}", *cells, f"{rows[STOCK]['seconds'] / row['seconds']:8.2f}x")
    ratio = rows.get(OURS, {}).get("error_vs_stocks")
    if ratio is not None:
        print(f"Against the next wider precision ours is {ratio:.2f} times as far off as stock.")


# Roofline


MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}
MATMUL_REPEATS = 8


def min_step_s(stock: Any, latents: Tensor, params: VideoParams) -> float:
    """Roofline of a step in seconds, for the operations of stock, counted on the meta device."""
    guided = (params.max_guidance_scale or 0) > 1
    return step_flops(stock.unet.config, latents.shape, 2 if guided else 1) / matmul_rate(
        stock.unet.device, stock.unet.dtype
    )


def step_flops(config: Any, shape: tuple[int, ...], halves: int) -> float:
    """Operations of one step on latents (1, frames, channels, height, width)."""
    _, frames, _, height, width = shape
    with torch.device("meta"):
        unet: Any = CLASSES["unet"].from_config(dict(config)).to("meta", torch.float16)
    return count_flops(lambda: run_step(unet, halves, (frames, height, width)))


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product, the best of several.

    The numbers are random: a GPU multiplies ones or zeros faster, since fewer bits change.
    """
    side = MATRIX_SIDE.get(device.type, MATRIX_SIDE["cpu"])
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.randn(side, side, generator=draw).to(device, dtype) for _ in range(2))
    best = float("inf")
    for _ in range(MATMUL_REPEATS):
        begin = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best
