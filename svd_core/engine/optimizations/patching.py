"""The rewrites of a pipeline: put on layer by layer, and taken off again.

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
class Rewritten:
    """A forward in the place of the stock one, and the name of the rewrite it comes from."""

    name: str
    forward: Forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)


def put_on(model: nn.Module, rewrites: Iterable[tuple[str, Rewrite]]) -> dict[str, int]:
    """Give every layer of `model` the first forward that one of `rewrites` has for it.

    Returns how many layers each rewrite changed. A layer that is rewritten already is left alone.
    """
    counts = {}
    for name, rewrite in rewrites:
        counts[name] = 0
        for layer in model.modules():
            forward = None if _is_rewritten(layer) else rewrite(layer)
            if forward is not None:
                layer.forward = Rewritten(name, forward)
                counts[name] += 1
    return counts


def take_off(model: nn.Module) -> None:
    """Give every layer of `model` its stock forward back. No hooks may be on it."""
    for layer in rewritten(model):
        del layer.forward


def rewritten(model: nn.Module) -> Iterator[nn.Module]:
    return (layer for layer in model.modules() if _is_rewritten(layer))


def rewritten_by(layer: nn.Module) -> str | None:
    """Name of the rewrite that `layer` has, None for a stock one."""
    forward = vars(layer).get("forward")
    return forward.name if isinstance(forward, Rewritten) else None


def _is_rewritten(layer: nn.Module) -> bool:
    return rewritten_by(layer) is not None
