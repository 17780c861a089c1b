"""A GPU where there is none: its tensors are computed by the CPU, but otherwise as good as CUDA's.

They report the device `cuda:0`, do not mix with those of the CPU, have to be brought there and
back, and can be offloaded from there. Streams finish at once. The choice of kernels, which torch
makes in C++, is not pretended.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")

DEVICE, IS_CUDA = Tensor.device.__get__, Tensor.is_cuda.__get__  # type: ignore[attr-defined]

MIXING = {Tensor.copy_, Tensor.__getitem__, Tensor.__setitem__, Tensor.__deepcopy__}
"""What takes tensors of two devices on CUDA, too."""

INNER = re.compile(r"_[^_]|__[gs]et__")
"""Names of what computes nothing: torch's own, and reading and setting an attribute."""

LOOKS = {
    Tensor.item,
    Tensor.tolist,
    Tensor.nonzero,
    Tensor.__bool__,
    Tensor.__int__,
    Tensor.__float__,
}
"""At numbers themselves, for which the GPU must have come so far."""


class OnGpu(Tensor):
    """Holds its numbers where any tensor does; only its class says that it lies elsewhere."""

    @staticmethod
    def __new__(cls, numbers: Tensor, requires_grad: bool = False) -> Any:
        """As Accelerate calls the class of a parameter when it brings another value for it."""
        if not isinstance(numbers, OnGpu):
            return torch.nn.Parameter(numbers, requires_grad)
        return Tensor._make_subclass(cls, numbers, requires_grad)

    def record_stream(self, _: "Stream") -> None:  # type: ignore[override]
        """In C++ only CUDA's streams are taken."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = self.detach().clone().requires_grad_(self.requires_grad)
        copied._is_param = isinstance(self, torch.nn.Parameter)  # by which torch knows one
        return memo.setdefault(id(self), copied)


class PretendCuda(TorchFunctionMode):
    """`brought`, `fetched`: bytes that went to the GPU and came from it. `waits`: how often the CPU
    had to wait for what the GPU was computing, in any thread. `behind`: how many times an event is
    asked for before it has happened. `free_bytes`: what it says is free; nothing checks
    that. `lost`: like a CUDA context after an illegal memory access, it computes nothing more."""

    def __init__(self) -> None:
        super().__init__()
        self.brought = self.fetched = self.waits = 0
        self.behind = 3
        self.free_bytes = 80 << 30
        self.lost = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        there = bool(args) and isinstance(args[0], OnGpu)
        if self.lost and (there or _names_gpu(kwargs.get("device"))):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if func == DEVICE:
            return CUDA if there else func(*args)
        if func == IS_CUDA:
            return there
        if func is Tensor.cpu:
            return self._moved(args[0], {"device": CPU})
        if func is Tensor.cuda:
            return self._moved(args[0], {"device": CUDA})
        if func is Tensor.to:
            return self._moved(args[0], _target(args[1:], kwargs))
        if func is Tensor.numpy and there:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        self.waits += there and func in LOOKS
        if func is Tensor.copy_ and isinstance(args[1], OnGpu) and not there:
            self.fetched += args[1].nbytes
            self.waits += not (kwargs.get("non_blocking") and hasattr(args[0], "pinned"))
            return func(args[0], _bare(args[1]))
        if func is Tensor.copy_ and there and not isinstance(args[1], OnGpu) and args[1].dim():
            self.brought += args[1].nbytes
        if kwargs.pop("pin_memory", False) or func is Tensor.pin_memory:
            pinned = func(*args, **kwargs) if func is not Tensor.pin_memory else args[0].clone()
            pinned.pinned = True
            return pinned
        if _names_gpu(kwargs.get("device")):
            kwargs["device"] = CPU
            return func(*args, **kwargs).as_subclass(OnGpu)
        if func not in MIXING and not INNER.match(func.__name__):
            _check(func.__name__, args, kwargs)
        return func(*args, **kwargs)

    def _moved(self, tensor: Tensor, target: dict[str, Any]) -> Tensor:
        """`Tensor.to`, which returns what it is given if nothing changes."""
        numbers = _bare(tensor)
        here = "cuda" if isinstance(tensor, OnGpu) else numbers.device.type
        to = torch.device(target.pop("device", here)).type
        if to == "meta":
            return numbers.to("meta", **target) if here != to or target else tensor
        if here == "meta":
            raise NotImplementedError("Cannot copy out of meta tensor; no data!")
        found = numbers.to(**target) if target else numbers
        if found is numbers:
            if to == here:
                return tensor
            found = numbers.clone()
        if to != here and to == "cuda":
            self.brought += found.nbytes
        elif to != here:
            self.fetched += found.nbytes
            self.waits += 1
        return found.as_subclass(OnGpu) if to == "cuda" else found


class Stream:
    """Of work on `gpu`, which is done at once."""

    def __init__(self, gpu: PretendCuda) -> None:
        self.gpu = gpu

    def wait_stream(self, _: "Stream") -> None:
        pass

    def wait_event(self, _: "Event") -> None:
        pass

    def synchronize(self) -> None:
        self.gpu.waits += 1


class Event(Stream):
    """Happens after it was asked for `gpu.behind` times."""

    def __init__(self, gpu: PretendCuda) -> None:
        super().__init__(gpu)
        self.left = gpu.behind

    def record(self, _: Stream | None = None) -> None:
        pass

    def query(self) -> bool:
        self.left -= 1
        return self.left < 0


@contextmanager
def pretend_cuda() -> Iterator[PretendCuda]:
    """While it lasts there is such a GPU, for this thread."""
    future = torch.__future__
    before = future.get_overwrite_module_params_on_conversion()
    future.set_overwrite_module_params_on_conversion(True)  # else a weight keeps its class
    try:
        with (
            PretendCuda() as gpu,
            patch.multiple(
                torch.cuda,
                Stream=lambda *_, **__: Stream(gpu),
                Event=lambda *_, **__: Event(gpu),
                current_stream=lambda *_: Stream(gpu),
                stream=lambda _: nullcontext(),
            ),
        ):
            yield gpu
    finally:
        future.set_overwrite_module_params_on_conversion(before)


def _target(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What `Tensor.to` is asked for, by name."""
    target = {name: value for name, value in kwargs.items() if value is not None}
    flags = iter(("non_blocking", "copy"))
    for arg in args:
        match arg:
            case str() | torch.device():
                target["device"] = arg
            case Tensor():
                target |= {"device": CUDA if isinstance(arg, OnGpu) else CPU, "dtype": arg.dtype}
            case torch.dtype():
                target["dtype"] = arg
            case bool():
                target[next(flags)] = arg
    target.pop("non_blocking", None)
    return target


def _names_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _bare(tensor: Tensor) -> Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(Tensor)


def _check(name: str, args: Any, kwargs: Any) -> None:
    """Single numbers of the CPU go with everything."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = {isinstance(tensor, OnGpu) for tensor in tensors if tensor.dim()}
    if len(there) > 1:
        raise RuntimeError(f"Expected all tensors to be on the same device, in {name}.")
