"""Sequential CPU offload without repeated transfers: weights stay for several calls.

Accelerate brings the weights of a layer for each call and drops them afterwards. A layer that is
called slice by slice would have them brought for every slice. Outside of sequential offload
nothing here has an effect.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
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
