"""`AlphaBlender` of spatial and temporal output as one linear interpolation.

Stock builds the factor from tensors at every call and blends in three passes over the picture. The
factor is a weight, so it is the same at every call: this pipeline marks no frame as a still image,
which is the one thing that would change it. Near 1 the temporal half is not worth a computation.
"""

from typing import Any

import torch
from diffusers.models.resnet import AlphaBlender
from torch import Tensor

from svd_core.engine.optimizations.patching import Forward


def temporal_share(blender: Any) -> float:
    """What the temporal half is multiplied by, rounded as stock rounds it."""
    alpha = blender.mix_factor.detach()
    if blender.merge_strategy != "fixed":
        alpha = torch.sigmoid(alpha)
    share = alpha if blender.switch_spatial_to_temporal_mix else 1.0 - alpha
    return float(share)


def blend_in_one_pass(layer: Any) -> Forward | None:
    """`torch.lerp`, or what it comes to: one of the halves as it is."""
    if not isinstance(layer, AlphaBlender):
        return None
    share = temporal_share(layer)

    def forward(x_spatial: Tensor, x_temporal: Tensor, *_: Any, **__: Any) -> Tensor:
        if share in (0.0, 1.0):
            return x_temporal if share else x_spatial
        return torch.lerp(x_spatial, x_temporal, share)

    return forward
