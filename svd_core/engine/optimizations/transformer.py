"""Spatio-temporal transformer of the UNet: token layout, attention and feed-forward.

Each function here takes a layer of diffusers and gives a forward that computes the same from the
same weights, or None for a layer that it does not fit.
"""

from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.engine.optimizations.group_norm import order_of
from svd_core.engine.optimizations.patching import Forward
from svd_core.engine.optimizations.zero_branches import is_zero_branch

MAX_USED_SHARE = 0.8
"""Share of feed-forward units in use above which gathering weights costs more than it saves."""

PRUNED_SLICE = 2**17
"""Numbers per layer and slice of a pruned feed-forward: half a megabyte in single precision, of
the megabyte of cache that a core of today has to itself."""

CHUNK_SIZE = 2**27
"""Numbers of one slice of a chunked feed-forward: a quarter of a gigabyte in half precision, ample
work for a GPU."""


def transformer_in_token_layout(layer: Any) -> Forward | None:
    """A forward that keeps the tokens of a transformer, or of a spatial block, in one layout.

    Stock turns all tokens from (frame, place) to (place, frame) for each temporal block and back.
    Only attention over frames needs that order; norms and feed-forwards see one token at a time.
    Stock also repeats the photo's token for every place, although the result is the same for all.
    Frame positions are embedded once for a clip, not once for each half of a guided step. The
    temporal blocks must be as wide as the spatial ones.
    """
    if isinstance(layer, BasicTransformerBlock):
        plain = layer.norm_type == "layer_norm" and layer.pos_embed is None
        return _spatial_block(layer) if plain and layer.attn2 is not None else None
    if not isinstance(layer, TransformerSpatioTemporalModel):
        return None
    if not all(block.is_res and block.attn2 for block in layer.temporal_transformer_blocks):
        return None

    def forward(
        x: Tensor, encoder_hidden_states: Tensor, image_only_indicator: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor]:
        clips, frames = image_only_indicator.shape
        context = encoder_hidden_states.view(clips, frames, *encoder_hidden_states.shape[1:])[:, 0]
        numbers = layer.time_proj(torch.arange(frames, device=x.device)).to(x.dtype)
        positions = layer.time_pos_embed(numbers)[:, None]  # (frames, 1, channels)
        tokens = layer.proj_in(layer.norm(x).permute(0, 2, 3, 1).flatten(1, 2))
        blocks = zip(layer.transformer_blocks, layer.temporal_transformer_blocks, strict=True)
        for spatial, temporal in blocks:
            tokens = spatial(tokens, encoder_hidden_states=encoder_hidden_states)
            clip = tokens.view(clips, frames, *tokens.shape[1:]) + positions
            mixed = _temporal_block(temporal, clip, context)
            tokens = layer.time_mixer(tokens, mixed.flatten(0, 1), image_only_indicator)
        pictures = layer.proj_out(tokens).view(len(x), *x.shape[2:], -1)
        # In stock's order: norms on a CPU have 1.7 times the error where channels come last.
        return ((pictures.permute(0, 3, 1, 2) + x).contiguous(memory_format=order_of(x)),)

    return forward


def _spatial_block(block: Any) -> Forward:
    def forward(x: Tensor, encoder_hidden_states: Tensor, **_: Any) -> Tensor:
        if not is_zero_branch(block.attn1):
            x = x + block.attn1(block.norm1(x))
        if not is_zero_branch(block.attn2):
            # Attention to a single token is the same for all queries, so one of them is enough.
            queries = x[:, :1] if encoder_hidden_states.shape[1] == 1 else x
            x = x + block.attn2(block.norm2(queries), encoder_hidden_states=encoder_hidden_states)
        return _add(block.ff, block.norm3, x)

    return forward


def _temporal_block(block: Any, x: Tensor, context: Tensor) -> Tensor:
    """`x`: (clips, frames, places, channels), which may be written over; `context`: (clips, tokens,
    channels)."""
    x = _add(block.ff_in, block.norm_in, x)
    if not is_zero_branch(block.attn1):
        turned = block.norm1(x).transpose(1, 2)  # (clips, places, frames, channels)
        attended = block.attn1(turned.flatten(0, 1))
        x += attended.view(*turned.shape[:2], *attended.shape[1:]).transpose(1, 2)
    if not is_zero_branch(block.attn2):
        queries = block.norm2(x[:, :1, :1] if context.shape[1] == 1 else x)
        attended = block.attn2(queries.flatten(1, 2), encoder_hidden_states=context)
        x += attended.view(queries.shape)
    return _add(block.ff, block.norm3, x)


def _add(feed_forward: Any, norm: Any, x: Tensor) -> Tensor:
    return x if is_zero_branch(feed_forward) else feed_forward(norm(x)).add_(x)


def single_token_cross_attention(layer: Any) -> Forward | None:
    """A forward of cross-attention without queries, for a context of a single token.

    Cross-attention to a single token is constant, since softmax of one logit is 1. The photo is
    the only token that SVD's UNet attends to, in 32 layers for SVD-XT. For any query, the result is
    `to_out(to_v(token))`, one vector for each row of the batch (Qualcomm's MobileVD leaves out the
    same layers). Computing it at every step takes no measurable time and needs no state.
    """
    if not isinstance(layer, Attention) or not layer.is_cross_attention:
        return None
    if layer.residual_connection or layer.norm_cross or layer.rescale_output_factor != 1.0:
        return None
    stock = layer.forward

    def forward(x: Tensor, encoder_hidden_states: Tensor, *_: Any, **more: Any) -> Tensor:
        if encoder_hidden_states.shape[1] != 1:
            return stock(x, encoder_hidden_states, **more)
        return layer.to_out[0](layer.to_v(encoder_hidden_states))

    return forward


def fused_qkv_attention(layer: Any) -> Forward | None:
    """A forward of plain self-attention on tokens (batch, places, channels): one matrix product.

    Stock (`AttnProcessor2_0`) multiplies the same input by three matrices. It also divides the
    result by `rescale_output_factor`, which is 1, in a pass over the whole picture. `Guidance` sets
    the attention kernel for the whole UNet.
    """
    if not isinstance(layer, Attention) or layer.is_cross_attention:
        return None
    if layer.residual_connection or layer.norm_q is not None or layer.group_norm is not None:
        return None
    if layer.rescale_output_factor != 1.0 or layer.spatial_norm is not None:
        return None

    def forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
        q, k, v = joined_projection(layer, x)
        heads_out = F.scaled_dot_product_attention(q, k, v)
        return layer.to_out[0](heads_out.transpose(1, 2).flatten(2))

    return forward


def joined_projection(layer: Any, x: Tensor) -> Tensor:
    """Queries, keys and values of attention `layer`: (3, batch, heads, places, channels)."""
    projections = layer.to_q, layer.to_k, layer.to_v
    biased = layer.to_q.bias is not None
    weight = torch.cat([p.weight for p in projections])
    bias = torch.cat([p.bias for p in projections]) if biased else None
    joined = F.linear(x, weight, bias).view(*x.shape[:2], 3, layer.heads, -1)
    return joined.permute(2, 0, 3, 1, 4)


def chunked_feed_forward(layer: Any) -> Forward | None:
    """A forward of feed-forward `layer` in slices of tokens; a small input is one slice.

    Stock writes the hidden numbers of all tokens at once, eight times the input: the peak of memory
    of a step. A feed-forward sees one token at a time, so slices give the same result. (Stock's
    `enable_forward_chunking` does not fit its temporal blocks, and needs sizes that divide.)
    """
    if not isinstance(layer, FeedForward) or not isinstance(layer.net[0], GEGLU):
        return None
    stock = layer.forward
    last: Any = layer.net[-1]
    step = max(1, CHUNK_SIZE // (2 * last.in_features))

    def forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        if len(tokens) <= step:
            return stock(x)
        out = x.new_empty(len(tokens), last.out_features)
        slices = zip(torch.split(tokens, step), torch.split(out, step), strict=True)
        for source, target in slices:
            target.copy_(stock(source))
        return out.view(*x.shape[:-1], last.out_features)

    return forward


def pruned_feed_forward(layer: Any) -> Forward | None:
    """A forward of feed-forward `layer` without hidden units of zero weights, if there are many.

    A GEGLU unit adds `out * value * gelu(gate)`. That is zero if its column of the last layer is
    zero, or its row and bias of value or of gate, gelu(0) being 0. Inputs that no remaining unit
    reads, and outputs that none writes, are left out as well. Tokens are processed in slices, so
    that the hidden numbers, eight times the input, stay in the processor's cache.
    """
    if not isinstance(layer, FeedForward) or not isinstance(layer.net[0], GEGLU):
        return None
    into: Any = layer.net[0].proj
    out_of: Any = layer.net[-1]
    value, gate = _used_rows(into).chunk(2)
    units = (value & gate & (out_of.weight != 0).any(dim=0)).nonzero().flatten()
    hidden = out_of.in_features
    if len(units) > MAX_USED_SHARE * hidden or not len(units):
        return None
    rows = torch.cat([units, units + hidden])
    inputs = (into.weight[rows] != 0).any(dim=0).nonzero().flatten()
    written = (out_of.weight[:, units] != 0).any(dim=1)
    outputs = (written if out_of.bias is None else written | (out_of.bias != 0)).nonzero().flatten()
    step = max(1, PRUNED_SLICE // len(units))

    def forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
        weight, bias = into.weight[rows][:, inputs], _rows_of(into.bias, rows)
        out_weight = out_of.weight[outputs][:, units]
        out_bias = _rows_of(out_of.bias, outputs)
        tokens = x.reshape(-1, x.shape[-1])
        out = x.new_zeros(len(tokens), out_of.out_features)
        # Each of thousands of slices would be compiled on its own, which takes hours.
        at_once = len(tokens) if torch.compiler.is_compiling() else step
        slices = zip(torch.split(tokens, at_once), torch.split(out, at_once), strict=True)
        for source, target in slices:
            value, gate = F.linear(source[:, inputs], weight, bias).chunk(2, dim=-1)
            target[:, outputs] = F.linear(value * F.gelu(gate), out_weight, out_bias)
        return out.view(*x.shape[:-1], out_of.out_features)

    return forward


def _used_rows(layer: Any) -> Tensor:
    """Mask of the rows of a linear layer that give anything but zero."""
    used: Tensor = (layer.weight != 0).any(dim=1)
    return used if layer.bias is None else used | (layer.bias != 0)


def _rows_of(bias: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if bias is None else bias[rows]
