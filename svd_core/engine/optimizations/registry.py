"""Registry of the exact optimizations, with the devices on which they save time.

Each computes the function of the stock layers from the same weights and differs only by rounding.
Each can be applied alone (`apply_optimizations(..., only=...)`), as tests and benchmarks do.

Embeddings of the time and of the frame positions are computed at every step, though they could be
kept. They are a ten-thousandth of SVD-XT's operations.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import diffusers

from svd_core.checkpoints.memory_plan import MemoryPlan
from svd_core.engine.optimizations.axial_attention import axial_attention
from svd_core.engine.optimizations.group_norm import ClipNorm, group_norm_channels_last, torch_norm
from svd_core.engine.optimizations.patching import Forward, Rewrite, patch, unpatch
from svd_core.engine.optimizations.resblocks import (
    blend_in_one_pass,
    folded_upsample,
    fused_temporal_resblock,
    resnet_without_division,
)
from svd_core.engine.optimizations.transformer import (
    chunked_feed_forward,
    fused_qkv_attention,
    pruned_feed_forward,
    single_token_cross_attention,
    transformer_in_token_layout,
)
from svd_core.engine.optimizations.zero_branches import skip_zero_branches

PARTS = ("unet", "vae")

DIFFUSERS = "0.42"
"""The minor version whose layers the optimizations stand for; requirements.txt asks for it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Optimization:
    """A rewrite of layers, and the devices on which it saves time.

    `takes_norm`: the rewrite takes a `ClipNorm` as well, torch's by default.
    """

    rewrite: Callable[..., Forward | None]
    on_cpu: bool = True
    on_cuda: bool = True
    takes_norm: bool = False


OPTIMIZATIONS: Mapping[str, Optimization] = {
    "silent": Optimization(skip_zero_branches),
    "blend": Optimization(blend_in_one_pass),
    "one token": Optimization(single_token_cross_attention),
    "axial attention": Optimization(axial_attention, on_cuda=False),
    "joined attention": Optimization(fused_qkv_attention),
    "flat temporal": Optimization(fused_temporal_resblock, takes_norm=True),
    "undivided": Optimization(resnet_without_division, takes_norm=True),
    "upsample": Optimization(folded_upsample, on_cuda=False),
    "still tokens": Optimization(transformer_in_token_layout),
    "units": Optimization(pruned_feed_forward, on_cuda=False),
    "slices": Optimization(chunked_feed_forward),
    "norms": Optimization(group_norm_channels_last, on_cpu=False, takes_norm=True),
}
"""By name, in order of precedence: a layer takes the first that fits."""


def check_diffusers() -> bool:
    """Whether diffusers is of the tested minor version; if not, the log gets a warning."""
    version = diffusers.__version__
    if version.startswith(f"{DIFFUSERS}."):
        return True
    log.warning(
        "diffusers %s is installed, but the optimizations were compared with %s only, so videos "
        "may come out wrong; install what requirements.txt lists.",
        version,
        DIFFUSERS,
    )
    return False


def optimizations_for(plan: MemoryPlan) -> list[str]:
    """Names of the optimizations that save time under `plan`."""
    on_cpu = plan.device == "cpu"
    return [n for n, each in OPTIMIZATIONS.items() if (each.on_cpu if on_cpu else each.on_cuda)]


def rewrites(names: Collection[str], norm: ClipNorm = torch_norm) -> list[tuple[str, Rewrite]]:
    """The rewrites of `names` in order of precedence, with `norm` where one is taken."""
    return [
        (name, partial(each.rewrite, norm=norm) if each.takes_norm else each.rewrite)
        for name, each in OPTIMIZATIONS.items()
        if name in names
    ]


def apply_optimizations(
    pipeline: Any,
    only: Collection[str],
    norm: ClipNorm = torch_norm,
    also: Mapping[str, Collection[str]] | None = None,
) -> dict[str, int]:
    """Apply the optimizations named in `only` to `pipeline`, and no others; none makes it stock.

    `also`: further ones, by part. Returns how many layers each changed. Weights must be in memory
    and no hooks on the pipeline.
    """
    counts = Counter[str]()
    for part in PARTS:
        model = getattr(pipeline, part)
        unpatch(model)
        names = {*only, *(also or {}).get(part, ())}
        counts.update(patch(model, rewrites(names, norm)))
    return counts
