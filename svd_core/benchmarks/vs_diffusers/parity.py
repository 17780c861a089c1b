"""Numerical parity: what each variant's UNet computes from the same input at the first step.

On a GPU ours makes the photo smaller there before CLIP sees it, so that the question may differ in
its last digit: whoever was asked otherwise than stock is asked again.

If an answer is further from stock's than rounding explains, all are held against the truth, which
is stock in the next wider precision: a net may blow rounding up, as svd-nano does, whose places are
differences of large numbers. Then stock's own distance from the truth is the measure.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from svd_core.benchmarks.vs_diffusers.timing import ClipTiming
from svd_core.benchmarks.vs_diffusers.variants import STOCK, Variant

ROUNDING = 3e-6
"""Largest difference in single precision, of the largest number."""

INPUT_TOLERANCE = 1e-2
"""Largest difference of what anybody's UNet was asked in its own clip, of the largest number. Half
precision rounds in the fourth digit; another picture of the photo would change the first."""

MAX_ERROR_RATIO = 1.25
"""Our distance from the truth may be this many times stock's. The order of sums alone moves it:
svd-nano's UNet came to 1.06 with one thread of a CPU, and to less with two."""

UNetInputs = tuple[Any, ...]
"""What a UNet is called with: latents, timestep, and all else by name."""

WIDER = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float64,
}


@dataclass(frozen=True)
class Parity:
    """By contestant who must be right: `asked`, largest difference of the question from stock's,
    and `answers`, of the answers to stock's, each over the largest number; `ratio`, distance from
    the truth over stock's, None where nobody had to ask. By each: `frames`, largest difference of
    a pixel from stock's, of 255; `changed`, share of pixels that differ by more than 1."""

    input_difference: dict[str, float]
    output_difference: dict[str, float]
    ratio: dict[str, float] | None
    frames: dict[str, int]
    changed: dict[str, float]

    @property
    def wrong(self) -> list[str]:
        """Those who are not right."""
        return [name for name in self.output_difference if not self._right(name)]

    def _right(self, name: str) -> bool:
        near = bool(self.ratio and self.ratio[name] <= MAX_ERROR_RATIO)
        return self.input_difference[name] <= INPUT_TOLERANCE and (
            self.output_difference[name] <= ROUNDING or near
        )

    def sentence(self) -> str:
        told = [
            f"{name} (asked otherwise by {self.input_difference[name]:.1e}, differs by "
            f"{self.output_difference[name]:.1e}, "
            f"{(self.ratio or {}).get(name, float('nan')):.2f} times stock's error)"
            for name in self.wrong
        ]
        return f"No speeds: {', '.join(told)} does not compute what stock computes."


def check_parity(
    stock: Any, timings: dict[str, list[ClipTiming]], exact: Sequence[Variant]
) -> Parity:
    """Each contestant's first clip; all its others are the same. `exact`: who must be right."""
    first = {name: made[0] for name, made in timings.items()}
    base = first[STOCK]
    largest = base.unet_output.abs().max()
    asked = {
        one.name: _max_difference(first[one.name].unet_inputs, base.unet_inputs) for one in exact
    }
    said = {
        one.name: first[one.name].unet_output
        if asked[one.name] == 0
        else _unet_output(one, base.unet_inputs)
        for one in exact
    }
    answers = {
        name: float((answer - base.unet_output).abs().max() / largest)
        for name, answer in said.items()
    }
    differences = {
        name: np.abs(timing.frames.astype(np.int16) - base.frames) for name, timing in first.items()
    }
    ratio = None
    if not all(difference <= ROUNDING for difference in answers.values()):
        truth = _reference(stock.unet, base.unet_inputs)
        off = {name: float((said[name] - truth).square().mean().sqrt()) for name in answers}
        ratio = {name: value / off[STOCK] for name, value in off.items()}
    return Parity(
        input_difference=asked,
        output_difference=answers,
        ratio=ratio,
        frames={name: int(difference.max()) for name, difference in differences.items()},
        changed={name: float((difference > 1).mean()) for name, difference in differences.items()},
    )


def _max_difference(question: UNetInputs, other: UNetInputs) -> float:
    """Largest difference of two numbers at the same place, over the largest of `other`."""
    pairs = zip(tree_leaves(question), tree_leaves(other), strict=True)
    tensors = [(a.float().cpu(), b.float().cpu()) for a, b in pairs if torch.is_tensor(a)]
    apart = [(a - b).abs().max() / b.abs().max().clamp(min=1e-12) for a, b in tensors]
    return float(torch.stack(apart).max())  # of which one that is no number is the largest


@torch.no_grad()
def _unet_output(one: Variant, question: UNetInputs) -> Tensor:
    sample, timestep, more = question
    said: Tensor = one.prepare().unet(sample, timestep, **more)[0]
    return said.float().cpu()


@torch.no_grad()
def _reference(unet: Any, question: UNetInputs) -> Tensor:
    """What stock says to `question` in the next wider precision."""
    dtype = WIDER[unet.dtype]
    sample, timestep, more = question
    wide = {
        name: value.to(dtype) if torch.is_tensor(value) else value for name, value in more.items()
    }
    said: Tensor = deepcopy(unet).to(dtype)(sample.to(dtype), timestep, **wide)[0]
    return said.cpu()
