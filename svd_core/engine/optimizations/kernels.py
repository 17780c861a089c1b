"""Kernels and memory layouts for one device, each chosen by a probe on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svd_core.engine.optimizations.attention_probe import Attention, choose_attention
from svd_core.engine.optimizations.group_norm import NORMS, ClipNorm, norm_choice
from svd_core.engine.optimizations.group_norm import STOCK as STOCK_NORM
from svd_core.engine.optimizations.layouts import (
    DECODER,
    LAYOUTS,
    UNET,
    Layout,
    Size,
    layout_choice,
    random_part,
    rewritten,
)
from svd_core.engine.optimizations.probe import Case, Choice, choose

HEURISTIC, BENCHMARK = "heuristic", "benchmark"
"""Ways of cuDNN to find an algorithm: by rules, or by timing all of them for each new shape."""


@dataclass(frozen=True)
class Kernels:
    """What computes attention, norms and convolutions; by default what works on every device.

    `norm`: see `NORMS`. `unet`, `decoder`: layouts of their convolutions. `benchmark`: let cuDNN
    time its algorithms.
    """

    attention: Attention = Attention()
    norm: str = STOCK_NORM
    unet: Layout = Layout()
    decoder: Layout = Layout()
    benchmark: bool = False

    @property
    def clip_norm(self) -> ClipNorm:
        return NORMS[self.norm]

    @contextmanager
    def convolutions(self) -> Iterator[None]:
        """Compute convolutions as chosen until the context ends."""
        with cudnn_benchmark(self.benchmark):
            yield


@contextmanager
def cudnn_benchmark(on: bool = True) -> Iterator[None]:
    """Let cuDNN time its algorithms for each new shape and keep the fastest, if `on`."""
    cudnn: Any = torch.backends.cudnn
    before = cudnn.benchmark
    cudnn.benchmark = on
    try:
        yield
    finally:
        cudnn.benchmark = before


def choose_kernels(device: str, dtype: str, folder: Path | None) -> Kernels:
    """The fastest kernels that are right on `device` (a GPU), see `probe.choose`.

    Each choice is made with the previous ones, since a layout pays only with norms that keep it.
    """
    fastest = partial(_fastest, device=device, dtype=dtype, folder=folder)
    norm = fastest(norm_choice())
    layouts = {
        name: LAYOUTS[fastest(layout_choice(f"{name} with {norm} norms", size, NORMS[norm]))]
        for name, size in (("UNet", UNET), ("Decoder", DECODER))
    }
    algorithms = benchmark_choice(UNET, layouts["UNet"], NORMS[norm])
    return Kernels(
        attention=choose_attention(device, dtype, folder),
        norm=norm,
        unet=layouts["UNet"],
        decoder=layouts["Decoder"],
        benchmark=dtype == "float16" and fastest(algorithms) == BENCHMARK,
    )


def _fastest(choice: Choice, device: str, dtype: str, folder: Path | None) -> str:
    names = choose(choice, device, dtype, folder)
    return names[0] if names else choice.candidates[0]


def benchmark_choice(size: Size, layout: Layout, norm: ClipNorm) -> Choice:
    """The choice of how cuDNN finds an algorithm.

    A benchmark may end otherwise in each process. So it must not change a bit of the result, as the
    probe demands in half precision: a seed must stay the same video on the same machine.
    """

    def cases(device: str, dtype: torch.dtype) -> list[Case]:
        part, inputs = random_part(size, device, dtype)
        part = rewritten(part, layout, norm)
        x, temb = inputs[0].contiguous(memory_format=layout.order), inputs[1]

        def compute(name: str) -> Tensor:
            with cudnn_benchmark(name == BENCHMARK):
                out: Tensor = part(x, temb)
            return out

        return [Case(compute, compute(HEURISTIC))]

    name = f"cuDNN's algorithms for {layout}"
    return Choice(name, HEURISTIC, (HEURISTIC, BENCHMARK), cases)
