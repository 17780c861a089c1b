"""Memory layout of convolutions: channels outermost or innermost, and folded upsampling.

Tensor cores read pictures with channels innermost (NHWC). With them outermost (NCHW), as in stock,
cuDNN turns the input and the output of each convolution. Which is faster depends on the GPU, and on
norms that keep the layout. Folded upsampling saves operations but runs small convolutions.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.resnet import SpatioTemporalResBlock
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from svd_core.engine.optimizations.group_norm import ClipNorm
from svd_core.engine.optimizations.patching import patch
from svd_core.engine.optimizations.probe import WIDER, Case, Choice
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


class Part(nn.Module):
    """Residual block, upsampling, residual block: a part of the UNet or of the decoder."""

    def __init__(self, channels: int, out_channels: int, temb_channels: int | None) -> None:
        super().__init__()
        block: Any = SpatioTemporalResBlock
        self.first = block(channels, channels, temb_channels)
        self.upsample = Upsample2D(channels, use_conv=True, out_channels=channels)
        self.last = block(channels, out_channels, temb_channels)

    def forward(self, x: Tensor, temb: Tensor | None) -> Tensor:
        """`x`: the frames of one clip."""
        still = torch.zeros(1, len(x), device=x.device)
        x = self.upsample(self.first(x, temb, still))
        out: Tensor = self.last(x, temb, still)
        return out


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


def layout_choice(name: str, size: Size, norm: ClipNorm) -> Choice:
    """The choice of a layout for parts of `size`, with GroupNorm by `norm`."""

    def cases(device: str, dtype: torch.dtype) -> list[Case]:
        return [part_case(size, norm, device, dtype)]

    return Choice(name, STOCK, tuple(LAYOUTS), cases)


def part_case(size: Size, norm: ClipNorm, device: str, dtype: torch.dtype) -> Case:
    """A random part, computed in each layout."""
    part, inputs = random_part(size, device, dtype)
    candidates = {name: rewritten(part, layout, norm) for name, layout in LAYOUTS.items()}
    turned = {
        name: (inputs[0].contiguous(memory_format=layout.order), inputs[1])
        for name, layout in LAYOUTS.items()
    }

    def compute(name: str) -> Tensor:
        out: Tensor = candidates.get(name, part)(*turned.get(name, inputs))
        return out

    wider = deepcopy(part).to(WIDER[dtype])
    x, temb = (None if each is None else each.to(WIDER[dtype]) for each in inputs)
    return Case(compute, wider(x, temb))


def random_part(
    size: Size, device: str, dtype: torch.dtype
) -> tuple[Part, tuple[Tensor, Tensor | None]]:
    """A part of random weights with its input."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        part = Part(size.channels, size.out_channels, size.temb_channels).eval()
        x = torch.randn(size.frames, size.channels, size.height, size.width)
        temb = None if size.temb_channels is None else torch.randn(size.frames, size.temb_channels)
    there: Any = part.to(device, dtype)
    return there, (x.to(device, dtype), None if temb is None else temb.to(device, dtype))


def rewritten(part: Part, layout: Layout, norm: ClipNorm) -> Part:
    """A copy of `part` with the optimizations for a GPU, in `layout`."""
    copied = deepcopy(part)
    names = [name for name, each in OPTIMIZATIONS.items() if each.on_cuda]
    patch(copied, rewrites([*names, FOLDED] if layout.folded else names, norm))
    layout.arrange(copied)
    return copied
