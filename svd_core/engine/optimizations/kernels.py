"""Kernels and memory layouts for one device, each chosen by a probe on it.

Tensor cores read pictures with channels innermost (NHWC). With them outermost (NCHW), as in stock,
cuDNN transposes the input and output of each convolution. Which is faster depends on the GPU, and
on norms that keep the layout. Folded upsampling saves operations but runs small convolutions.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.models.resnet import SpatioTemporalResBlock
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from svd_core.engine.optimizations.attention_probe import Attention, choose_attention
from svd_core.engine.optimizations.group_norm import NORMS, ClipNorm, norm_choice
from svd_core.engine.optimizations.group_norm import STOCK as STOCK_NORM
from svd_core.engine.optimizations.patching import patch
from svd_core.engine.optimizations.probe import WIDER, Case, Choice, choose, cudnn_flag
from svd_core.engine.optimizations.registry import OPTIMIZATIONS, rewrites

FOLDED = "upsample"
"""The optimization that folds upsampling."""


@dataclass(frozen=True)
class Layout:
    """How the convolutions of a model are computed."""

    channels_last: bool = False
    folded: bool = False

    @property
    def order(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def arrange(self, model: nn.Module) -> None:
        """Lay out the weights of convolutions, in which the outputs then are as well.

        A kernel over frames, (out, in, 3, 1, 1), is read as one of 3x1.
        """
        for parameter in model.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=self.order)
            elif parameter.dim() == 5 and parameter.shape[3:] == (1, 1):
                flat = parameter.data[..., 0].contiguous(memory_format=self.order)
                parameter.data = flat[..., None]


STOCK = "stock"

LAYOUTS: Mapping[str, Layout] = {
    "NCHW": Layout(),
    "NHWC": Layout(channels_last=True),
    "NCHW, folded": Layout(folded=True),
    "NHWC, folded": Layout(channels_last=True, folded=True),
}
"""By the name of a candidate."""

HEURISTIC, BENCHMARK = "heuristic", "benchmark"
"""Ways of cuDNN to find an algorithm: by rules, or by timing all of them for each new shape."""


@dataclass(frozen=True)
class Size:
    """A `Part` and its input: frames of `height` times `width`."""

    channels: int
    out_channels: int
    temb_channels: int | None
    frames: int
    height: int
    width: int


UNET = Size(640, 320, 1280, frames=25, height=36, width=64)
"""The outer levels of SVD-XT's UNet, without guidance."""

DECODER = Size(256, 128, None, frames=5, height=144, width=256)
"""The outer levels of its decoder, with few frames and a quarter of the pixels."""


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

    def convolutions(self) -> AbstractContextManager[None]:
        """Compute convolutions as chosen until the context ends."""
        return cudnn_flag("benchmark", self.benchmark)


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

    A benchmark may choose another algorithm in each process. So it must not change a bit of the
    result, as the probe demands in half precision: a seed must stay the same video on one machine.
    """

    def cases(device: str, dtype: torch.dtype) -> list[Case]:
        part, x, temb = random_part(size, device, dtype)
        part, x = rewritten(part, layout, norm), x.contiguous(memory_format=layout.order)

        def compute(name: str) -> Tensor:
            with cudnn_flag("benchmark", name == BENCHMARK):
                return part(x, temb)

        return [Case(compute, compute(HEURISTIC))]

    name = f"cuDNN's algorithms for {layout}"
    return Choice(name, HEURISTIC, (HEURISTIC, BENCHMARK), cases)


class Part(nn.Module):
    """Residual block, upsampling, residual block: a part of the UNet or of the decoder."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        block: Any = SpatioTemporalResBlock
        self.first = block(size.channels, size.channels, size.temb_channels)
        self.upsample = Upsample2D(size.channels, use_conv=True, out_channels=size.channels)
        self.last = block(size.channels, size.out_channels, size.temb_channels)

    def forward(self, x: Tensor, temb: Tensor | None) -> Tensor:
        """`x`: the frames of one clip."""
        still = torch.zeros(1, len(x), device=x.device)
        x = self.upsample(self.first(x, temb, still))
        return self.last(x, temb, still)


def layout_choice(name: str, size: Size, norm: ClipNorm) -> Choice:
    """The choice of a layout for parts of `size`, with GroupNorm by `norm`."""

    def cases(device: str, dtype: torch.dtype) -> list[Case]:
        return [part_case(size, norm, device, dtype)]

    return Choice(name, STOCK, tuple(LAYOUTS), cases)


def part_case(size: Size, norm: ClipNorm, device: str, dtype: torch.dtype) -> Case:
    """A random part, computed in each layout."""
    part, x, temb = random_part(size, device, dtype)
    parts = {name: rewritten(part, layout, norm) for name, layout in LAYOUTS.items()}
    inputs = {name: x.contiguous(memory_format=each.order) for name, each in LAYOUTS.items()}
    parts[STOCK], inputs[STOCK] = part, x

    def compute(name: str) -> Tensor:
        return parts[name](inputs[name], temb)

    wider = WIDER[dtype]
    expected = deepcopy(part).to(wider)(x.to(wider), None if temb is None else temb.to(wider))
    return Case(compute, expected)


def random_part(size: Size, device: str, dtype: torch.dtype) -> tuple[Part, Tensor, Tensor | None]:
    """A part of random weights with its input, drawn on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        part = Part(size).eval()
        x = torch.randn(size.frames, size.channels, size.height, size.width)
        temb = None if size.temb_channels is None else torch.randn(size.frames, size.temb_channels)
    temb = None if temb is None else temb.to(device, dtype)
    return part.to(device, dtype), x.to(device, dtype), temb


def rewritten(part: Part, layout: Layout, norm: ClipNorm) -> Part:
    """A copy of `part` with the optimizations for a GPU, in `layout`."""
    copied = deepcopy(part)
    names = [name for name, each in OPTIMIZATIONS.items() if each.on_cuda]
    patch(copied, rewrites([*names, FOLDED] if layout.folded else names, norm))
    layout.arrange(copied)
    return copied
