"""Whether contestants are right: what their UNet answers at the first step, to the same question.

If an answer is further from stock's than rounding explains, all are held against the truth, which
is stock in the next wider precision: a net may blow rounding up, as svd-nano does, whose places are
differences of large numbers. Then stock's own distance from the truth is the measure.
"""

from collections.abc import Collection
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svd_core.bench.contestants import STOCK
from svd_core.bench.shot import Shot

ROUNDING = 3e-6
"""Largest difference in single precision, of the largest number."""

AS_NEAR = 1.05
"""Our distance from the truth may be this many times stock's."""

WIDER = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float64,
}


@dataclass(frozen=True)
class Fidelity:
    """By contestant who must be right: `answers`, largest difference from stock over the largest
    number; `ratio`, distance from the truth over stock's, None where nobody had to ask. By each:
    `frames`, largest difference of a pixel from stock's, of 255; `changed`, share of pixels that
    differ by more than 1."""

    answers: dict[str, float]
    ratio: dict[str, float] | None
    frames: dict[str, int]
    changed: dict[str, float]

    @property
    def wrong(self) -> list[str]:
        """Those who are not right."""
        return [
            name
            for name, difference in self.answers.items()
            if not difference <= ROUNDING and not (self.ratio and self.ratio[name] <= AS_NEAR)
        ]

    def sentence(self) -> str:
        told = [
            f"{name} (differs by {self.answers[name]:.1e}, "
            f"{(self.ratio or {}).get(name, float('nan')):.2f} times stock's error)"
            for name in self.wrong
        ]
        return f"No speeds: {', '.join(told)} does not compute what stock computes."


def judge(stock: Any, shots: dict[str, list[Shot]], exact: Collection[str]) -> Fidelity:
    """Each contestant's first clip; all its others are the same. `exact`: who must be right."""
    first = {name: made[0] for name, made in shots.items()}
    base = first[STOCK]
    largest = base.answer.abs().max()
    answers = {
        name: float((shot.answer - base.answer).abs().max() / largest)
        for name, shot in first.items()
        if name in exact
    }
    differences = {
        name: np.abs(shot.frames.astype(np.int16) - base.frames) for name, shot in first.items()
    }
    ratio = None
    if not all(difference <= ROUNDING for difference in answers.values()):
        truth = _truth(stock.unet, base.question)
        off = {name: float((first[name].answer - truth).square().mean().sqrt()) for name in answers}
        ratio = {name: value / off[STOCK] for name, value in off.items()}
    return Fidelity(
        answers=answers,
        ratio=ratio,
        frames={name: int(difference.max()) for name, difference in differences.items()},
        changed={name: float((difference > 1).mean()) for name, difference in differences.items()},
    )


@torch.no_grad()
def _truth(unet: Any, question: tuple[Any, ...]) -> Tensor:
    """What stock says to `question` in the next wider precision."""
    dtype = WIDER[unet.dtype]
    sample, timestep, more = question
    wide = {
        name: value.to(dtype) if torch.is_tensor(value) else value for name, value in more.items()
    }
    said: Tensor = deepcopy(unet).to(dtype)(sample.to(dtype), timestep, **wide)[0]
    return said.cpu()
