"""Classifier-free guidance: both halves of a step in one batch, or one after the other.

The halves, without and with the photo, are independent, so the result is the same up to rounding.
One after the other they save the activations of one half, 4 GiB for SVD-XT.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

from svd_core.engine.optimizations.kernels import Kernels


class Guidance:
    """The UNet's forward, called once for both halves of a guided step or once for each.

    `split`: once for each. `dtype`: that of the UNet if the pipeline around it has another.
    `guided`: levels of noise (sigma) between which the half without the photo is computed, None for
    all. Elsewhere the other half stands for both, which is guidance of 1.
    `kernels`: those for attention and convolutions on a GPU.
    """

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward
        self.split = False
        self.dtype: torch.dtype | None = None
        self.guided: tuple[float, float] | None = None
        self.kernels = Kernels()

    def __call__(
        self,
        sample: torch.Tensor,
        timestep: Any,
        encoder_hidden_states: torch.Tensor,
        added_time_ids: torch.Tensor,
        return_dict: bool = True,
    ) -> Any:
        dtype, outer = self.dtype or sample.dtype, sample.dtype
        sample, encoder_hidden_states = sample.to(dtype), encoder_hidden_states.to(dtype)
        calls = [(sample, encoder_hidden_states, added_time_ids)]
        num_halves = len(sample)
        unguided = num_halves > 1 and self.guided is not None and not self._within(timestep)
        if self.split or unguided:
            halves = zip(sample, encoder_hidden_states, added_time_ids, strict=True)
            calls = [(x[None], h[None], a[None]) for x, h, a in halves]
        if unguided:
            calls = calls[-1:]
        with ExitStack() as stack:
            if sample.is_cuda:
                stack.enter_context(self.kernels.attention.active())
                stack.enter_context(self.kernels.convolutions())
            outputs = [self.forward(x, timestep, h, a, return_dict)[0] for x, h, a in calls]
        if unguided:
            outputs *= num_halves
        return (torch.cat(outputs).to(outer),)

    def _within(self, timestep: Any) -> bool:
        """Whether guidance is on at `timestep`, a quarter of the logarithm of sigma in SVD."""
        assert self.guided is not None
        low, high = self.guided
        return low <= math.exp(4 * float(timestep)) <= high
