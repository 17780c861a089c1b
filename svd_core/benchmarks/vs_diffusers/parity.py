"""Numerical parity: outputs of each variant's UNet for the same inputs at the first step.

Our pipeline resizes the photo on the GPU before CLIP, so the inputs may differ in their last digit.
A variant whose inputs differ from stock's is run again on the inputs of stock.

If an output differs from stock's by more than rounding, all are compared with the truth, which is
stock in the next wider precision. Stock's own error is then the limit: a net may amplify rounding.
In svd-nano, for example, places are differences of large numbers.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from svd_core.benchmarks.vs_diffusers.timing import ClipTiming
from svd_core.benchmarks.vs_diffusers.variants import STOCK, Variant
from svd_core.engine.optimizations.probe import WIDER

ROUNDING = 3e-6
"""Largest difference in single precision, of the largest number."""

INPUT_TOLERANCE = 1e-2
"""Largest difference of the UNet's inputs between variants, of the largest number. Half precision
rounds in the fourth digit; another picture of the photo would change the first."""

MAX_ERROR_RATIO = 1.25
"""Largest ratio of our error to stock's. The order of sums alone changes it: svd-nano's UNet had
1.06 with one thread of a CPU, and less with two."""

UNetInputs = tuple[Any, ...]
"""Inputs of a UNet: latents, timestep, and keyword arguments."""


@dataclass(frozen=True)
class Parity:
    """Agreement with stock, by variant.

    Of variants that must be exact: `input_difference` and `output_difference`, the largest
    difference of the UNet's inputs and outputs from stock's over the largest number; `ratio`, error
    over stock's, None if rounding explains all differences. Of all: `frames`, the largest
    difference of a pixel, of 255; `changed`, share of pixels that differ by more than 1.
    """

    input_difference: dict[str, float]
    output_difference: dict[str, float]
    ratio: dict[str, float] | None
    frames: dict[str, int]
    changed: dict[str, float]

    @property
    def wrong(self) -> list[str]:
        """Variants that do not agree with stock."""
        return [name for name in self.output_difference if not self._right(name)]

    def _right(self, name: str) -> bool:
        near = bool(self.ratio and self.ratio[name] <= MAX_ERROR_RATIO)
        return self.input_difference[name] <= INPUT_TOLERANCE and (
            self.output_difference[name] <= ROUNDING or near
        )

    def sentence(self) -> str:
        parts = [
            f"{name} (inputs differ by {self.input_difference[name]:.1e}, outputs by "
            f"{self.output_difference[name]:.1e}, "
            f"{(self.ratio or {}).get(name, float('nan')):.2f} times stock's error)"
            for name in self.wrong
        ]
        return f"{', '.join(parts)} computes something else than stock."


def check_parity(
    stock: Any, timings: dict[str, list[ClipTiming]], exact: Sequence[Variant]
) -> Parity:
    """Compare the first clip of each variant. `exact`: variants that must agree with stock."""
    first = {name: made[0] for name, made in timings.items()}
    base = first[STOCK]
    largest = base.unet_output.abs().max()
    input_difference = {
        one.name: _max_difference(first[one.name].unet_inputs, base.unet_inputs) for one in exact
    }
    outputs = {
        one.name: first[one.name].unet_output
        if input_difference[one.name] == 0
        else _unet_output(one.prepare().unet, base.unet_inputs)
        for one in exact
    }
    output_difference = {
        name: float((output - base.unet_output).abs().max() / largest)
        for name, output in outputs.items()
    }
    differences = {
        name: np.abs(timing.frames.astype(np.int16) - base.frames) for name, timing in first.items()
    }
    ratio = None
    if not all(difference <= ROUNDING for difference in output_difference.values()):
        truth = _unet_output(stock.unet, base.unet_inputs, WIDER[stock.unet.dtype])
        errors = {
            name: float((output - truth).square().mean().sqrt()) for name, output in outputs.items()
        }
        ratio = {name: value / errors[STOCK] for name, value in errors.items()}
    return Parity(
        input_difference=input_difference,
        output_difference=output_difference,
        ratio=ratio,
        frames={name: int(difference.max()) for name, difference in differences.items()},
        changed={name: float((difference > 1).mean()) for name, difference in differences.items()},
    )


def _max_difference(inputs: UNetInputs, other: UNetInputs) -> float:
    """Largest difference of two numbers at the same place, over the largest of `other`."""
    pairs = zip(tree_leaves(inputs), tree_leaves(other), strict=True)
    tensors = [(a.float().cpu(), b.float().cpu()) for a, b in pairs if torch.is_tensor(a)]
    apart = [(a - b).abs().max() / b.abs().max().clamp(min=1e-12) for a, b in tensors]
    return float(torch.stack(apart).max())  # NaN counts as the largest


@torch.no_grad()
def _unet_output(unet: Any, inputs: UNetInputs, dtype: torch.dtype | None = None) -> Tensor:
    """Output of `unet`, or of its copy in another precision, at least in float32."""
    sample, timestep, more = inputs
    if dtype is not None:
        unet, sample = deepcopy(unet).to(dtype), sample.to(dtype)
        more = tree_map_only(Tensor, lambda value: value.to(dtype), more)
    output: Tensor = unet(sample, timestep, **more)[0]
    return output.cpu() if dtype is not None else output.float().cpu()
