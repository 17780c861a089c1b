"""Progress within a denoising step, for CPUs, where a step takes seconds to minutes.

Forward hooks count the share of the step's work that is done, and may raise to stop it. A GPU gets
no hooks: its steps are short, and it computes later than the processor calls the layers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.models.resnet import SpatioTemporalResBlock
from torch import nn

from svd_core.engine.optimizations.patching import patch_name
from svd_core.engine.optimizations.torch_compile import NAME as COMPILED
from svd_core.engine.optimizations.zero_branches import is_zero_branch

PER_FRAME = ("time_embedding", "add_embedding", "time_emb_proj", "time_pos_embed", "attn2")
"""Parts of names of layers that compute one row for each frame or clip, not for each place."""

KEPT = ("conv_shortcut", "to_v", "to_out.0")
"""Layers of a block that are computed even if the rest of the block is skipped."""


@contextmanager
def count_step(unet: Any, on_share: Callable[[float], None]) -> Iterator[None]:
    """Call `on_share` with the share of the current step that is done, until the context ends.

    It is called after each layer with weights, or each block where blocks are compiled.
    """
    costs = layer_costs(unet)
    total = sum(costs.values())
    done: set[nn.Module] = set()

    def on_begin(*_: Any) -> None:
        done.clear()

    def on_end(layer: nn.Module, *_: Any) -> None:
        # A rewrite may read the weights of inner layers without calling them.
        new = [each for each in layer.modules() if each in costs and each not in done]
        if new:
            done.update(new)
            on_share(min(1.0, sum(costs[each] for each in done) / total))

    handles = [unet.register_forward_pre_hook(on_begin)]
    try:
        handles += [layer.register_forward_hook(on_end) for layer in _called_layers(unet)]
        yield
    finally:
        for handle in handles:
            handle.remove()


def layer_costs(unet: Any) -> dict[nn.Module, float]:
    """Products of each layer of a step, up to one factor: weights times places of its level."""
    costs: dict[nn.Module, float] = {}
    skipped: set[nn.Module] = set()
    for name, layer in unet.named_modules():
        if patch_name(layer) == "silent" and not isinstance(layer, SpatioTemporalResBlock):
            nothing = is_zero_branch(layer)
            skipped.update(
                inner for part, inner in layer.named_modules() if nothing or part not in KEPT
            )
        matrix = isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d)
        if matrix and layer not in skipped and not any(part in name for part in PER_FRAME):
            costs[layer] = layer.weight.numel() * 4.0 ** -_level(name, len(unet.down_blocks))
    return costs


def _level(name: str, levels: int) -> int:
    """How often the sides of the picture are halved where layer `name` computes."""
    part, number, rest = f"{name}..".split(".", 2)
    if part == "down_blocks":
        return int(number) + ("downsamplers" in rest)
    if part == "up_blocks":
        return levels - 1 - int(number) - ("upsamplers" in rest)
    return levels - 1 if part == "mid_block" else 0


def _called_layers(layer: nn.Module) -> Iterator[nn.Module]:
    """Layers that are called by Python: none within a compiled block."""
    for inner in layer.children():
        yield inner
        if patch_name(inner) != COMPILED:
            yield from _called_layers(inner)
