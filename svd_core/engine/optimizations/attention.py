"""Fused QKV self-attention: one matrix product for queries, keys and values.

Stock (`AttnProcessor2_0`) multiplies by three matrices that read the same input, and divides the
result by `rescale_output_factor`, which is 1: a pass over the whole picture for nothing. Which
kernel computes the attention itself is up to `Guidance`, which sets it for the whole UNet.
"""

from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.engine.optimizations.patching import Forward


def fused_qkv_attention(layer: Any) -> Forward | None:
    """A forward of plain self-attention on tokens (batch, places, channels)."""
    if not isinstance(layer, Attention) or layer.is_cross_attention:
        return None
    if layer.residual_connection or layer.norm_q is not None or layer.group_norm is not None:
        return None
    if layer.rescale_output_factor != 1.0 or layer.spatial_norm is not None:
        return None
    projections, heads = (layer.to_q, layer.to_k, layer.to_v), layer.heads
    biased = layer.to_q.bias is not None

    def forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
        weight = torch.cat([p.weight for p in projections])
        bias = torch.cat([p.bias for p in projections]) if biased else None
        joined = F.linear(x, weight, bias).view(*x.shape[:2], 3, heads, -1)
        q, k, v = joined.permute(2, 0, 3, 1, 4)  # each (batch, heads, places, channels)
        seen = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = layer.to_out[0](seen.transpose(1, 2).flatten(2))
        return out

    return forward
