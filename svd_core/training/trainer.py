"""Trainer: optimizer, averaged weights (EMA), and state that survives a kill."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from svd_core.errors import ToolFailed

WARM_UP_STEPS = 100
MUON_RATE = 10.0
"""Muon's learning rate as a multiple of AdamW's: its steps have the size of a whole matrix."""

EMA_STEPS = 500
"""Horizon of the averaged weights. It grows with the step, so that short runs do not lag behind."""


@dataclass
class TrainingRun:
    """Training of `modules` on `draw_loss(generator)`, a finite scalar of the current weights.

    With `muon`, matrices and kernels are trained by Muon, which learns pictures in far fewer steps
    than AdamW. The rest, and every `conv_out`, are trained by AdamW. `rate`: learning rate of
    AdamW, halved every `half_life` steps; Muon's is `MUON_RATE` times it. `path`: state file,
    resumed from if it exists, and replaced atomically.
    """

    path: Path
    modules: Mapping[str, nn.Module]
    draw_loss: Callable[[torch.Generator], Tensor]
    rate: float
    half_life: int
    device: str = "cpu"
    half_precision: bool = True
    muon: bool = True
    step: int = 0
    clips: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        for module in self.modules.values():
            module.to(self.device)
            for parameter in module.parameters():
                if parameter.ndim == 4:  # the fastest layout for convolutions
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self._names = {
            f"{name}.{key}": parameter
            for name, module in self.modules.items()
            for key, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        self.average = {key: value.detach().clone() for key, value in self._names.items()}
        self._matrices = {
            key: nn.Parameter(
                _as_matrix(value.detach())
            )  # shares memory with the kernel; Muon takes matrices only
            for key, value in self._names.items()
            if self.muon and value.ndim > 1 and "conv_out" not in key
        }
        rest = [value for key, value in self._names.items() if key not in self._matrices]
        self._muon: Any = None
        if self._matrices:
            matrices = self._matrices.values()
            self._muon = torch.optim.Muon(matrices, self.rate, weight_decay=0.0)
        self._adam = torch.optim.AdamW(rest, lr=self.rate, betas=(0.9, 0.99), weight_decay=0.0)
        if self.path.exists():
            self._resume()

    def train(self, seconds: float, on_step: Callable[["TrainingRun", float], None]) -> None:
        """Train for `seconds`, calling `on_step(course, loss)` after each step.

        Raises `SvdError`, which names the step, for a loss that is not finite. The state file then
        still holds the last good state.
        """
        end = time.monotonic() + seconds
        while (begun := time.monotonic()) < end:
            generator = torch.Generator().manual_seed(1_000_003 * (self.step + 1))
            loss = self._step(generator)
            self.seconds += time.monotonic() - begun
            on_step(self, loss)

    def _step(self, generator: torch.Generator) -> float:
        rate = self.rate * 0.5 ** (self.step / self.half_life)
        rate *= min(1.0, (self.step + 1) / WARM_UP_STEPS)
        for group in self._adam.param_groups:
            group["lr"] = rate
        for group in self._muon.param_groups if self._muon else ():
            group["lr"] = MUON_RATE * rate
        with torch.autocast(self.device, torch.bfloat16, enabled=self.half_precision):
            loss = self.draw_loss(generator)
        for parameter in self._names.values():
            parameter.grad = None
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self._names.values(), 1.0)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise ToolFailed(
                f"The loss is not finite at step {self.step}; "
                f"the last good state is in {self.path}."
            )
        for key, matrix in self._matrices.items():
            gradient = self._names[key].grad
            matrix.grad = None if gradient is None else _as_matrix(gradient)
        if self._muon:
            self._muon.step()
        self._adam.step()
        self.step += 1
        with torch.no_grad():
            for key, parameter in self._names.items():
                self.average[key].lerp_(parameter, max(1 / EMA_STEPS, 5 / (self.step + 5)))
        return loss.item()

    def save(self) -> None:
        """Write the state file, which a kill cannot leave half written."""
        state = {
            "weights": dict(self._names.items()),
            "average": self.average,
            "muon": self._muon.state_dict() if self._muon else {},
            "adam": self._adam.state_dict(),
            "numbers": (self.step, self.clips, self.seconds),
        }
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.path)

    @torch.no_grad()
    def _resume(self) -> None:
        state = torch.load(self.path, map_location=self.device, weights_only=True)
        for key, parameter in self._names.items():
            parameter.copy_(state["weights"][key])
        self.average = state["average"]
        if self._muon:
            self._muon.load_state_dict(state["muon"])
        self._adam.load_state_dict(state["adam"])
        self.step, self.clips, self.seconds = state["numbers"]


def _as_matrix(weight: Tensor) -> Tensor:
    """A kernel (out, in, height, width) as a matrix (out, rest), in place where memory allows."""
    if weight.ndim == 4:
        weight = weight.permute(0, 2, 3, 1)
    return weight.reshape(len(weight), -1)
