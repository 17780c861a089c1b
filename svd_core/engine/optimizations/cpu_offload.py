"""One-way CPU offload: weights are copied to the GPU and dropped there, never copied back.

Stock has each model come to the GPU when it is called, and go back to make room for the next. What
goes back is what came, so here the weights themselves stay where they wait, a copy works, and going
back is to drop it. SVD-XT's 4.7 GB in half precision are spared for every video, and nobody has to
find memory for them again. Only one model is on the GPU at a time: stock would leave the VAE there
beside the UNet, since it looks no further back than one model.

Sequential CPU offload without repeated transfers: weights stay for several calls.

Accelerate brings the weights of a layer for each call and drops them afterwards. A layer that is
called slice by slice would have them brought for every slice. Outside of sequential offload
nothing here has an effect.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.hooks import CpuOffload, UserCpuOffloadHook, add_hook_to_module
from accelerate.utils.memory import clear_device_cache
from accelerate.utils.modeling import has_offloaded_params


@contextmanager
def keep_weights_resident(*layers: Any) -> Iterator[None]:
    """Bring the weights of `layers` once, and drop them at the end, whatever happens inside."""
    if torch.compiler.is_compiling():  # only blocks that are not offloaded are compiled
        yield
        return
    offloaded = [
        module for layer in layers for module in layer.modules() if has_offloaded_params(module)
    ]
    begun: list[Any] = []
    try:
        for module in offloaded:
            begun.append(module)  # before it is brought: memory may run out in the middle
            module._hf_hook.pre_forward(module)
            module._hf_hook.offload = False
        yield
    finally:
        for module in begun:
            module._hf_hook.offload = True
            module._hf_hook.post_forward(module, None)


class OneWayCpuOffload(CpuOffload):  # type: ignore[misc]
    """Accelerate's hook, for a model whose weights nobody changes while copies of them work."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.others: list[UserCpuOffloadHook] = []
        self._waiting: list[tuple[dict[str, Any], str, torch.Tensor, torch.Tensor]] = []

    @property
    def on_gpu(self) -> bool:
        return bool(self._waiting)

    def init_hook(self, module: Any) -> Any:
        """Have what waits in its place again."""
        for owner, name, tensor, numbers in self._waiting:
            owner[name] = tensor
            tensor.data = numbers
        self._waiting = []
        return module

    def detach_hook(self, module: Any) -> Any:
        return self.init_hook(module)

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        there = [other for other in self.others if other.hook.on_gpu]
        for other in there:
            other.offload()
        if there:
            clear_device_cache()
        if not self._waiting:
            self._waiting = [
                (owner, name, tensor, tensor.data)
                for part in module.modules()
                for owner in (part._parameters, part._buffers)
                for name, tensor in owner.items()
                if tensor is not None
            ]
        return super().pre_forward(module, *args, **kwargs)


def use_one_way_offload(hooks: Sequence[UserCpuOffloadHook]) -> list[UserCpuOffloadHook]:
    """Replace Accelerate's hooks by `OneWayCpuOffload`; stock's hooks send all
    others away."""
    ours: list[UserCpuOffloadHook] = []
    for hook in hooks:
        waiting = OneWayCpuOffload(hook.hook.execution_device)
        add_hook_to_module(hook.model, waiting)
        ours.append(UserCpuOffloadHook(hook.model, waiting))
    for hook in ours:
        hook.hook.others = [other for other in ours if other is not hook]
    return ours
