"""Variants of one computation: seconds, peak memory, and error against a wider precision."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from svd_core.benchmarks.gpu.context import Context, Figures
from svd_core.benchmarks.gpu.kernel_profile import profile_kernels
from svd_core.benchmarks.gpu.timing import relative_error
from svd_core.benchmarks.gpu.variants import Setting, no_tf32, settings
from svd_core.benchmarks.vs_diffusers.parity import MAX_ERROR_RATIO, WIDER

Compute = Callable[[], Tensor]


@dataclass
class Comparison:
    """`model` computes `compute`. `truth`: the answer in the next wider precision. `stock_error`:
    relative error of the stock layers; the other variants may have `MAX_ERROR_RATIO` times as
    much."""

    context: Context
    model: Any
    compute: Compute
    truth: Tensor | None = None
    stock_error: float | None = None

    def compute_truth(self, compute: Callable[[torch.dtype], Tensor]) -> Figures:
        """`compute`: the answer in a given precision."""
        with no_tf32():
            truth = compute(WIDER[self.context.dtype])
        self.truth = truth.to(torch.float32)
        return {"finite": is_finite(truth), "largest": float(truth.abs().max())}

    def measure(
        self, *chosen: Setting, compute: Compute | None = None, exact: bool = True
    ) -> Figures:
        """Figures of `compute`, or of the usual computation, under the chosen settings.

        `exact`: an error clearly above stock's is a failure. torch's own GroupNorm is less exact
        with channels innermost, for example. Reserved memory shows fragmentation.
        """
        compute = compute or self.compute
        with settings(self.model, *chosen):
            answer = compute()
            finite, error = is_finite(answer), self._error(answer)
            del answer
            seconds, peak = self.context.timer.cost(compute)
            reserved = torch.cuda.max_memory_reserved() / 2**30 if self.context.cuda else 0.0
        found: dict[str, object] = {"seconds": seconds, "peak_gib": peak}
        found |= {"reserved_gib": round(reserved, 2), "error": error, "finite": finite}
        if error is not None and self.stock_error:
            ratio = error / self.stock_error
            found["error_vs_stock"] = round(ratio, 3)
            if exact:
                found["ok"] = ratio <= MAX_ERROR_RATIO
        return found

    def measure_stock(self) -> Figures:
        """The usual computation by stock layers, whose error is the measure of the others."""
        found = self.measure()
        error = found["error"]
        self.stock_error = error if isinstance(error, float) else None
        return found

    def profile(self, name: str) -> Figures:
        return profile_kernels(self.context.timer, self.compute, name, self.context.folder)

    def _error(self, answer: Tensor) -> float | None:
        if self.truth is None or self.truth.shape != answer.shape:
            return None
        return relative_error(answer, self.truth)


def is_finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())
