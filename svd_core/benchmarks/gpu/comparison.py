"""Comparison of variants of one computation: seconds, peak memory, error against wider precision.

Variants are ways to run a model: rewrites, layouts, attention backends, cuDNN, precision, memory.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name
from torch.nn.attention import SDPBackend, sdpa_kernel

from svd_core.benchmarks.gpu.context import Context, Figures
from svd_core.benchmarks.gpu.timing import profile_kernels, relative_error
from svd_core.benchmarks.vs_diffusers.parity import MAX_ERROR_RATIO
from svd_core.engine.optimizations.group_norm import NORMS
from svd_core.engine.optimizations.group_norm import STOCK as STOCK_NORM
from svd_core.engine.optimizations.kernels import Layout
from svd_core.engine.optimizations.patching import patch, unpatch
from svd_core.engine.optimizations.probe import WIDER, cudnn_flag
from svd_core.engine.optimizations.registry import OPTIMIZATIONS, rewrites

Compute = Callable[[], Tensor]

Setting = Callable[[Any], Any]
"""From a model to a context manager that changes how it runs."""


@dataclass
class Comparison:
    """Comparison of variants of `model`, which `compute` runs.

    `truth`: the output in the next wider precision. `stock_error`: relative error of the stock
    layers; that of the other variants may be `MAX_ERROR_RATIO` times as large.
    """

    context: Context
    model: Any
    compute: Compute
    truth: Tensor | None = None
    stock_error: float | None = None

    def compute_truth(self, compute: Callable[[torch.dtype], Tensor]) -> Figures:
        """Compute the truth. `compute`: returns the output in a given precision."""
        with cudnn_flag("allow_tf32", False):
            truth = compute(WIDER[self.context.dtype])
        self.truth = truth.to(torch.float32)
        return {"finite": is_finite(truth), "largest": float(truth.abs().max())}

    def measure(
        self, *chosen: Setting, compute: Compute | None = None, exact: bool = True
    ) -> Figures:
        """Measure `compute`, by default that of the comparison, under the chosen settings.

        `exact`: an error clearly above stock's is a failure. For example, torch's GroupNorm is
        less exact with channels innermost. Reserved memory shows fragmentation.
        """
        compute = compute or self.compute
        with ExitStack() as stack:
            for setting in chosen:
                stack.enter_context(setting(self.model))
            answer = compute()
            finite, error = is_finite(answer), self._error(answer)
            del answer
            seconds, peak = self.context.timer.cost(compute)
            reserved = torch.cuda.max_memory_reserved() / 2**30 if self.context.cuda else 0.0
        figures: dict[str, object] = {"seconds": seconds, "peak_gib": peak}
        figures |= {"reserved_gib": round(reserved, 2), "error": error, "finite": finite}
        if error is not None and self.stock_error:
            ratio = error / self.stock_error
            figures["error_vs_stock"] = round(ratio, 3)
            if exact:
                figures["ok"] = ratio <= MAX_ERROR_RATIO
        return figures

    def measure_both(
        self, compute_wider: Callable[[torch.dtype], Tensor], suffix: str, work: str
    ) -> None:
        """Measure and profile the stock layers, then ours, which stay in the model.

        `compute_wider`: returns the output in a given precision. `suffix`: of the cases. `work`:
        its name in the profile.
        """
        case = self.context.case
        case("truth", partial(self.compute_truth, compute_wider))
        case(f"stock{suffix}", self.measure_stock)
        case("stock, profile", partial(self.profile, f"stock {work}"))
        case("rewrites", lambda: {"layers": rewrite(self.model)})
        case(f"ours{suffix}", self.measure)
        case("ours, profile", partial(self.profile, f"our {work}"))

    def measure_stock(self) -> Figures:
        """Measure the stock layers, whose error is the reference of the other variants."""
        figures = self.measure()
        error = figures["error"]
        self.stock_error = error if isinstance(error, float) else None
        return figures

    def profile(self, name: str) -> Figures:
        return profile_kernels(self.context.timer, self.compute, name, self.context.folder)

    def _error(self, answer: Tensor) -> float | None:
        if self.truth is None or self.truth.shape != answer.shape:
            return None
        return relative_error(answer, self.truth)


def is_finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())


# Variants


def rewrite(
    model: Any, without: Sequence[str] = (), also: Sequence[str] = (), norm: str = STOCK_NORM
) -> dict[str, int]:
    """Apply the rewrites of CUDA to `model`; returns how many layers each changed.

    `also`: rewrites that are off on CUDA. `norm`: candidate for GroupNorm and SiLU.
    """
    unpatch(model)
    names = {name for name, each in OPTIMIZATIONS.items() if each.on_cuda} | {*also}
    return patch(model, rewrites(names - {*without}, NORMS[norm]))


def cudnn_algorithms(_: Any = None) -> AbstractContextManager[None]:
    """Let cuDNN time its algorithms for each new shape and keep the fastest."""
    return cudnn_flag("benchmark", True)


@contextmanager
def fp16_accumulation(_: Any = None) -> Iterator[None]:
    """Accumulate float16 products in float16: faster on GeForce cards, less exact."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_fp16_accumulation
    matmul.allow_fp16_accumulation = True
    try:
        yield
    finally:
        matmul.allow_fp16_accumulation = before


@contextmanager
def channels_last(model: Any) -> Iterator[None]:
    """Store convolution weights with channels innermost, as cuDNN then stores its outputs."""
    Layout(channels_last=True).arrange(model)
    try:
        yield
    finally:
        Layout().arrange(model)


def attention_by(*backends: SDPBackend) -> Setting:
    """Let every layer use the first of `backends` that supports its attention."""

    @contextmanager
    def setting(_: Any = None) -> Iterator[None]:
        stock: Any = F.scaled_dot_product_attention

        def chosen(*args: Any, **kwargs: Any) -> torch.Tensor:
            with sdpa_kernel(list(backends), set_priority=True):
                out: torch.Tensor = stock(*args, **kwargs)
            return out

        F.scaled_dot_product_attention = chosen
        try:
            yield
        finally:
            F.scaled_dot_product_attention = stock

    return setting


@contextmanager
def expandable_segments(_: Any = None) -> Iterator[None]:
    """Let the allocator grow its segments instead of adding new ones; for new allocations."""

    def allow(expandable: bool) -> None:
        torch.cuda.empty_cache()
        torch.cuda.memory._set_allocator_settings(f"expandable_segments:{expandable}")

    allow(True)
    try:
        yield
    finally:
        allow(False)
