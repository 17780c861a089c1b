"""Ways to run a model: rewrites, layouts, attention backends, cuDNN, precision, allocator."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  # the field's name
from torch.nn.attention import SDPBackend, sdpa_kernel

from svd_core.engine.optimizations.patching import Rewrite, patch, unpatch
from svd_core.engine.optimizations.registry import OPTIMIZATIONS

Setting = Callable[[Any], Any]
"""From a model to a context manager that changes how it runs."""

EXPANDABLE = "expandable_segments"


def rewrite(
    model: Any,
    without: Sequence[str] = (),
    also: Sequence[str] = (),
    first: Sequence[tuple[str, Rewrite]] = (),
) -> dict[str, int]:
    """Put the rewrites that pay on CUDA on `model`; returns how many layers each changed.

    `also`: those that do not pay there. `first`: candidates that come before all others.
    """
    unpatch(model)
    names = [name for name, it in OPTIMIZATIONS.items() if (it.on_cuda or name in also)]
    chosen = [(name, OPTIMIZATIONS[name].rewrite) for name in names if name not in without]
    return patch(model, [*first, *chosen])


@contextmanager
def settings(model: Any, *chosen: Setting) -> Iterator[None]:
    """All of `chosen` at once."""
    with ExitStack() as stack:
        for setting in chosen:
            stack.enter_context(setting(model))
        yield


@contextmanager
def cudnn_benchmark(_: Any = None) -> Iterator[None]:
    """cuDNN times its algorithms for each new shape and keeps the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def no_tf32(_: Any = None) -> Iterator[None]:
    """Convolutions of float32 in full precision, as products of matrices have it anyway."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@contextmanager
def fp16_accumulation(_: Any = None) -> Iterator[None]:
    """Products of float16 are added up in float16: faster on GeForce cards, less exact."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_fp16_accumulation
    matmul.allow_fp16_accumulation = True
    try:
        yield
    finally:
        matmul.allow_fp16_accumulation = before


@contextmanager
def channels_last(model: Any) -> Iterator[None]:
    """Weights of convolutions with channels innermost; cuDNN's answers then lie so, too."""
    _order(model, torch.channels_last)
    try:
        yield
    finally:
        _order(model, torch.contiguous_format)


def attention_by(*backends: SDPBackend) -> Setting:
    """Attention of every layer by the first of `backends` that can, whatever the layer asks for."""

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
    """The allocator grows its segments instead of taking new ones. For what is allocated anew."""
    _set_allocator(f"{EXPANDABLE}:True")
    try:
        yield
    finally:
        _set_allocator(f"{EXPANDABLE}:False")


def _set_allocator(text: str) -> None:
    torch.cuda.empty_cache()
    torch.cuda.memory._set_allocator_settings(text)


def _order(model: Any, order: torch.memory_format) -> None:
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=order)
