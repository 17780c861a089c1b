"""Patching of layers: replaces the forward of a layer, and restores it.

A rewrite looks at one layer and answers with a forward that computes the same from the same
weights, or with None. The layer keeps its parameters, so the state dict stays as it is. Weights
are looked at once, when a rewrite is put on.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

Forward = Callable[..., Any]
Rewrite = Callable[[Any], Forward | None]


@dataclass(frozen=True)
class PatchedForward:
    """A forward in the place of the stock one, and the name of the rewrite it comes from."""

    name: str
    forward: Forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)


def patch(model: nn.Module, rewrites: Iterable[tuple[str, Rewrite]]) -> dict[str, int]:
    """Give every layer of `model` the first forward that one of `rewrites` has for it.

    Returns how many layers each rewrite changed. A layer that is rewritten already is left alone.
    """
    counts = {}
    for name, rewrite in rewrites:
        counts[name] = 0
        for layer in model.modules():
            forward = None if _is_patched(layer) else rewrite(layer)
            if forward is not None:
                layer.forward = PatchedForward(name, forward)
                counts[name] += 1
    return counts


def unpatch(model: nn.Module) -> None:
    """Give every layer of `model` its stock forward back. No hooks may be on it."""
    for layer in patched_layers(model):
        del layer.forward


def patched_layers(model: nn.Module) -> Iterator[nn.Module]:
    return (layer for layer in model.modules() if _is_patched(layer))


def patch_name(layer: nn.Module) -> str | None:
    """Name of the rewrite that `layer` has, None for a stock one."""
    forward = vars(layer).get("forward")
    return forward.name if isinstance(forward, PatchedForward) else None


def _is_patched(layer: nn.Module) -> bool:
    return patch_name(layer) is not None
