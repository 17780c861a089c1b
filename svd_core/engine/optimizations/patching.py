"""Patching of layers: another forward for a layer, which keeps its parameters.

A rewrite takes one layer and returns a forward that computes the same from the same weights, or
None. It looks at the weights once, when it is applied. The state dict stays unchanged.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

Forward = Callable[..., Any]

Rewrite = Callable[[Any], Forward | None]
"""The forward of a layer that it fits, None for others."""


@dataclass(frozen=True)
class PatchedForward:
    """A forward in place of the stock one, with the name of its rewrite."""

    name: str
    forward: Forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)


def patch(model: nn.Module, rewrites: Iterable[tuple[str, Rewrite]]) -> dict[str, int]:
    """Give every layer of `model` the first forward that one of `rewrites` has for it.

    Returns how many layers each rewrite changed. A layer that is already patched stays so.
    """
    counts = {}
    for name, rewrite in rewrites:
        counts[name] = 0
        for layer in model.modules():
            forward = rewrite(layer) if patch_name(layer) is None else None
            if forward is not None:
                layer.forward = PatchedForward(name, forward)
                counts[name] += 1
    return counts


def unpatch(model: nn.Module) -> None:
    """Restore the stock forward of every layer of `model`, which must have no hooks."""
    for layer in patched_layers(model):
        del layer.forward


def patched_layers(model: nn.Module) -> Iterator[nn.Module]:
    """Layers of `model` with a patched forward."""
    return (layer for layer in model.modules() if patch_name(layer) is not None)


def patch_name(layer: nn.Module) -> str | None:
    """Name of the rewrite of `layer`, None for a stock layer."""
    forward = vars(layer).get("forward")
    return forward.name if isinstance(forward, PatchedForward) else None
