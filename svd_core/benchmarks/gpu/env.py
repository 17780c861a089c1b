"""Part env: the machine, its versions and peak rates, and whether diffusers was tested."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from functools import partial
from typing import Any

import torch

from svd_core.benchmarks.gpu.context import Context, Figures
from svd_core.engine.optimizations.registry import check_diffusers
from svd_core.engine.optimizations.torch_compile import can_compile

LIBRARIES = (
    "torch", "triton", "diffusers", "transformers", "accelerate", "huggingface_hub", "safetensors",
    "numpy", "pillow", "pydantic", "flash-attn", "torchao",
)  # fmt: skip

QUERY = ("driver_version", "clocks.sm", "clocks.mem", "power.draw", "utilization.gpu",
         "memory.used")  # fmt: skip
"""Fields that nvidia-smi reports."""

BUSY_PERCENT, BUSY_MIB = 10.0, 2000.0
"""Use of the GPU before the first measurement above which another program uses it."""

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def run_env(context: Context) -> None:
    context.case("machine", lambda: machine(context))
    context.case("modules", modules)
    context.case("tested versions", tested_versions)
    side = 8192 if context.cuda else 256
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        context.case(f"product, {name}", partial(product, context, side, dtype))
    context.case("copy", lambda: copy(context))
    for pinned in (False, True) if context.cuda else ():
        name = f"to the GPU, {'pinned' if pinned else 'pageable'} memory"
        context.case(name, partial(transfer, context, pinned))


def machine(context: Context) -> Figures:
    facts: dict[str, object] = {"python": platform.python_version(), "cores": os.cpu_count()}
    facts |= {name: version(name) for name in LIBRARIES}
    facts["compiler"] = shutil.which(os.environ.get("CXX") or "g++")
    if not context.cuda:
        return facts
    free, total = torch.cuda.mem_get_info()
    use = nvidia_smi()
    cudnn: Any = torch.backends.cudnn
    return facts | {
        "gpu": torch.cuda.get_device_name(),
        "gpus": torch.cuda.device_count(),
        "capability": torch.cuda.get_device_capability(),
        "multiprocessors": torch.cuda.get_device_properties(0).multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": cudnn.version(),
        "free_gb": round(free / 1e9, 2),
        "total_gb": round(total / 1e9, 2),
        "nvidia_smi": use,
        "busy": is_busy(use),
    }


def version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def nvidia_smi() -> dict[str, str]:
    """Fields of nvidia-smi for the first GPU by name; empty if it is missing or fails."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return {}
    first = (done.stdout.splitlines() or [""])[0]
    return dict(zip(QUERY, (value.strip() for value in first.split(",")), strict=False))


def is_busy(use: dict[str, str]) -> bool:
    """Whether another program uses the GPU; False without a response of nvidia-smi."""

    def number(name: str) -> float:
        try:
            return float(use.get(name, "0"))
        except ValueError:  # "[N/A]"
            return 0.0

    return number("utilization.gpu") > BUSY_PERCENT or number("memory.used") > BUSY_MIB


def modules() -> Figures:
    """Import what the other parts need, so that a missing library shows before they start."""
    import svd_core.benchmarks.vs_diffusers.contest
    import svd_core.engine.engine
    import svd_core.engine.loaded_model  # noqa: F401  # imported only to see that it can be

    return {}


def tested_versions() -> Figures:
    tested = check_diffusers()
    return {"diffusers_tested": tested, "can_compile": can_compile(), "ok": tested}


def product(context: Context, side: int, dtype: torch.dtype) -> Figures:
    one, other = (context.randn(side, side).to(dtype) for _ in range(2))
    seconds = context.timer.seconds(lambda: one @ other)
    return {"tflops": round(2 * side**3 / seconds / 1e12, 2)}


def copy(context: Context) -> Figures:
    """Measure the memory bandwidth, in bytes read and written."""
    source = context.randn(2**30 if context.cuda else 2**20)
    target = torch.empty_like(source)
    seconds = context.timer.seconds(lambda: target.copy_(source))
    return {"tb_per_s": round(2 * source.nbytes / seconds / 1e12, 3)}


def transfer(context: Context, pinned: bool) -> Figures:
    source = torch.zeros(2**28, dtype=torch.float16)
    source = source.pin_memory() if pinned else source
    seconds = context.timer.seconds(lambda: source.to(context.device, non_blocking=True))
    return {"gb_per_s": round(source.nbytes / seconds / 1e9, 2)}
