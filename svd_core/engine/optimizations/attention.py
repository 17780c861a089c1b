"""Fused QKV self-attention: one matrix product for queries, keys and values.

Stock (`AttnProcessor2_0`) multiplies by three matrices that read the same input, and divides the
result by `rescale_output_factor`, which is 1: a pass over the whole picture for nothing. Which
kernel computes the attention itself is up to `Guidance`, which sets it for the whole UNet.

Cross-attention over a single token is constant, since softmax of one logit is 1.

The photo is the only token SVD's UNet looks at, in 32 layers for SVD-XT. Whatever the query, the
answer is `to_out(to_v(token))`, one vector for each row of the batch (Qualcomm's MobileVD leaves
the same layers out). It is worked out at every step, not once per clip: it costs nothing that
could be measured, and there is no state to go stale. The vector is added to all places alike.
"""

from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.engine.optimizations.patching import Forward


def single_token_cross_attention(layer: Any) -> Forward | None:
    """A forward of cross-attention that does not ask for the query when there is one token."""
    if not isinstance(layer, Attention) or not layer.is_cross_attention:
        return None
    if layer.residual_connection or layer.norm_cross or layer.rescale_output_factor != 1.0:
        return None
    stock = layer.forward

    def forward(x: Tensor, encoder_hidden_states: Tensor, *_: Any, **more: Any) -> Tensor:
        if encoder_hidden_states.shape[1] != 1:
            out: Tensor = stock(x, encoder_hidden_states, **more)
            return out
        answer: Tensor = layer.to_out[0](layer.to_v(encoder_hidden_states))
        return answer

    return forward


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
