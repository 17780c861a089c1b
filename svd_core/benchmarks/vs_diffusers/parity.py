"""Whether contestants are right: what their UNet answers at the first step, to the same question.

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

from svd_core.benchmarks.vs_diffusers.timing import Shot
from svd_core.benchmarks.vs_diffusers.variants import STOCK, Contestant

ROUNDING = 3e-6
"""Largest difference in single precision, of the largest number."""

ASKED = 1e-2
"""Largest difference of what anybody's UNet was asked in its own clip, of the largest number. Half
precision rounds in the fourth digit; another picture of the photo would change the first."""

AS_NEAR = 1.25
"""Our distance from the truth may be this many times stock's. The order of sums alone moves it:
svd-nano's UNet came to 1.06 with one thread of a CPU, and to less with two."""

Question = tuple[Any, ...]
"""What a UNet is called with: latents, timestep, and all else by name."""

WIDER = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float64,
}


@dataclass(frozen=True)
class Fidelity:
    """By contestant who must be right: `asked`, largest difference of the question from stock's,
    and `answers`, of the answers to stock's, each over the largest number; `ratio`, distance from
    the truth over stock's, None where nobody had to ask. By each: `frames`, largest difference of
    a pixel from stock's, of 255; `changed`, share of pixels that differ by more than 1."""

    asked: dict[str, float]
    answers: dict[str, float]
    ratio: dict[str, float] | None
    frames: dict[str, int]
    changed: dict[str, float]

    @property
    def wrong(self) -> list[str]:
        """Those who are not right."""
        return [name for name in self.answers if not self._right(name)]

    def _right(self, name: str) -> bool:
        near = bool(self.ratio and self.ratio[name] <= AS_NEAR)
        return self.asked[name] <= ASKED and (self.answers[name] <= ROUNDING or near)

    def sentence(self) -> str:
        told = [
            f"{name} (asked otherwise by {self.asked[name]:.1e}, differs by "
            f"{self.answers[name]:.1e}, {(self.ratio or {}).get(name, float('nan')):.2f} times "
            "stock's error)"
            for name in self.wrong
        ]
        return f"No speeds: {', '.join(told)} does not compute what stock computes."


def judge(stock: Any, shots: dict[str, list[Shot]], exact: Sequence[Contestant]) -> Fidelity:
    """Each contestant's first clip; all its others are the same. `exact`: who must be right."""
    first = {name: made[0] for name, made in shots.items()}
    base = first[STOCK]
    largest = base.answer.abs().max()
    asked = {one.name: _apart(first[one.name].question, base.question) for one in exact}
    said = {
        one.name: first[one.name].answer if asked[one.name] == 0 else _said(one, base.question)
        for one in exact
    }
    answers = {
        name: float((answer - base.answer).abs().max() / largest) for name, answer in said.items()
    }
    differences = {
        name: np.abs(shot.frames.astype(np.int16) - base.frames) for name, shot in first.items()
    }
    ratio = None
    if not all(difference <= ROUNDING for difference in answers.values()):
        truth = _truth(stock.unet, base.question)
        off = {name: float((said[name] - truth).square().mean().sqrt()) for name in answers}
        ratio = {name: value / off[STOCK] for name, value in off.items()}
    return Fidelity(
        asked=asked,
        answers=answers,
        ratio=ratio,
        frames={name: int(difference.max()) for name, difference in differences.items()},
        changed={name: float((difference > 1).mean()) for name, difference in differences.items()},
    )


def _apart(question: Question, other: Question) -> float:
    """Largest difference of two numbers at the same place, over the largest of `other`."""
    pairs = zip(tree_leaves(question), tree_leaves(other), strict=True)
    tensors = [(a.float().cpu(), b.float().cpu()) for a, b in pairs if torch.is_tensor(a)]
    apart = [(a - b).abs().max() / b.abs().max().clamp(min=1e-12) for a, b in tensors]
    return float(torch.stack(apart).max())  # of which one that is no number is the largest


@torch.no_grad()
def _said(one: Contestant, question: Question) -> Tensor:
    sample, timestep, more = question
    said: Tensor = one.prepare().unet(sample, timestep, **more)[0]
    return said.float().cpu()


@torch.no_grad()
def _truth(unet: Any, question: Question) -> Tensor:
    """What stock says to `question` in the next wider precision."""
    dtype = WIDER[unet.dtype]
    sample, timestep, more = question
    wide = {
        name: value.to(dtype) if torch.is_tensor(value) else value for name, value in more.items()
    }
    said: Tensor = deepcopy(unet).to(dtype)(sample.to(dtype), timestep, **wide)[0]
    return said.cpu()
