"""Peak activation memory by counting: every tensor from its creation to its release.

On the `meta` device tensors have sizes and no numbers, so SVD-XT can be counted on any machine.
Attention counts as a flash kernel, which writes its result and nothing else; what libraries take
for themselves (cuDNN's workspaces, fragmentation) is not seen.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  # the field's name
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


def peak_bytes(compute: Callable[[], Any]) -> int:
    """The most bytes alive at once while `compute` runs, of what it makes itself."""
    with torch.no_grad(), _AllocationTracker() as live, _FlashAttention():
        compute()
    peak: int = live.peak
    return peak


class _AllocationTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Storages by their address, and how much they are together."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return made

    def _see(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._alive:
            return
        self._alive[key] = storage.nbytes()
        self._now += self._alive[key]
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._alive.pop(key, 0)


class _FlashAttention(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))
