"""The table of exact rewrites, and which of them a pipeline gets on the device it runs on.

Each computes the function of the stock layers from the same weights and differs by rounding only;
each can be put on alone (`quicken(..., only=...)`), which is how they are tested and measured.

Embeddings of the time and of the frames' positions are made at every step though they are the same
for a clip or for every clip: a ten-thousandth of SVD-XT's operations, which is not worth numbers
kept beside the weights they come from.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from svd_core.checkpoints.memory_plan import MemoryPlan
from svd_core.engine.optimizations.alpha_blend import one_pass_blend
from svd_core.engine.optimizations.attention import joined_self_attention
from svd_core.engine.optimizations.cross_attention import one_token
from svd_core.engine.optimizations.feed_forward import sliced
from svd_core.engine.optimizations.patching import Rewrite, put_on, take_off
from svd_core.engine.optimizations.pruning import used_units
from svd_core.engine.optimizations.resblocks import flat_temporal_half
from svd_core.engine.optimizations.resnet_2d import undivided
from svd_core.engine.optimizations.transformer import still_tokens
from svd_core.engine.optimizations.upsample import folded
from svd_core.engine.optimizations.zero_branches import silent

PARTS = ("unet", "vae")


@dataclass(frozen=True)
class Exact:
    """`rewrite` and where it pays.

    `whole_layers`: it calls inner layers and leaves reading of weights to them, as sequential
    offload demands, which has the weights of a layer at hand only while that layer runs.
    """

    rewrite: Rewrite
    on_cpu: bool
    on_cuda: bool
    whole_layers: bool


EXACT: Mapping[str, Exact] = {
    "silent": Exact(silent, on_cpu=True, on_cuda=True, whole_layers=True),
    "blend": Exact(one_pass_blend, on_cpu=True, on_cuda=True, whole_layers=True),
    "one token": Exact(one_token, on_cpu=True, on_cuda=True, whole_layers=True),
    "joined attention": Exact(joined_self_attention, on_cpu=True, on_cuda=True, whole_layers=False),
    "flat temporal": Exact(flat_temporal_half, on_cpu=True, on_cuda=True, whole_layers=False),
    "undivided": Exact(undivided, on_cpu=True, on_cuda=True, whole_layers=True),
    "upsample": Exact(folded, on_cpu=True, on_cuda=False, whole_layers=False),
    "still tokens": Exact(still_tokens, on_cpu=True, on_cuda=True, whole_layers=True),
    "units": Exact(used_units, on_cpu=True, on_cuda=False, whole_layers=False),
    "slices": Exact(sliced, on_cpu=True, on_cuda=True, whole_layers=True),
}
"""By name, in the order in which they have their say: a layer takes the first that fits."""


def paying(plan: MemoryPlan) -> list[str]:
    """Names of the rewrites that save time under `plan`."""
    return [
        name
        for name, exact in EXACT.items()
        if (exact.on_cpu if plan.device == "cpu" else exact.on_cuda)
        and (exact.whole_layers or plan.offload != "sequential")
    ]


def quicken(pipeline: Any, only: Collection[str]) -> dict[str, int]:
    """Put the rewrites named in `only` on `pipeline`, and no others; none makes it stock again.

    Returns how many layers each changed. Weights must be in memory and no hooks on the pipeline.
    """
    rewrites = [(name, exact.rewrite) for name, exact in EXACT.items() if name in only]
    counts = dict.fromkeys(only, 0)
    for part in PARTS:
        model = getattr(pipeline, part)
        take_off(model)
        for name, count in put_on(model, rewrites).items():
            counts[name] += count
    return counts
