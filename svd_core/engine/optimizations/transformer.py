"""Spatio-temporal transformer that keeps its tokens in one memory layout.

Replaces `TransformerSpatioTemporalModel` and the two kinds of blocks inside. Stock turns all tokens
from (frame, place) to (place, frame) for each temporal block and back; only its attention over
frames needs that order, norms and feed-forwards look at one token at a time. The photo's token is
repeated for every place there, though each place sees the same; one place asks for all of them
here. Frame positions are embedded once for a clip, not once for each half of a guided step.
"""

from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import Tensor

from svd_core.engine.optimizations.patching import Forward
from svd_core.engine.optimizations.zero_branches import is_zero_branch


def transformer_in_token_layout(layer: Any) -> Forward | None:
    """A forward of a transformer whose temporal blocks are as wide as its spatial ones."""
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
        positions = _positions(layer, frames, x)
        tokens = layer.proj_in(layer.norm(x).permute(0, 2, 3, 1).flatten(1, 2))
        blocks = zip(layer.transformer_blocks, layer.temporal_transformer_blocks, strict=True)
        for spatial, temporal in blocks:
            tokens = spatial(tokens, encoder_hidden_states=encoder_hidden_states)
            clip = tokens.view(clips, frames, *tokens.shape[1:]) + positions
            mixed = _temporal_block(temporal, clip, context)
            tokens = layer.time_mixer(tokens, mixed.flatten(0, 1), image_only_indicator)
        pictures = layer.proj_out(tokens).view(len(x), *x.shape[2:], -1)
        # As stock leaves it: on a CPU norms round 1.7 times as far where channels come last.
        return ((pictures.permute(0, 3, 1, 2) + x).contiguous(),)

    return forward


def _positions(layer: Any, frames: int, like: Tensor) -> Tensor:
    """(frames, 1, channels)"""
    numbers = torch.arange(frames, device=like.device)
    embedded: Tensor = layer.time_pos_embed(layer.time_proj(numbers).to(like.dtype))
    return embedded[:, None]


def _spatial_block(block: Any) -> Forward:
    def forward(x: Tensor, encoder_hidden_states: Tensor, **_: Any) -> Tensor:
        x = _self_attention(block, x)
        x = _cross_attention(block, x, encoder_hidden_states)
        return _add(block.ff, block.norm3, x)

    return forward


def _temporal_block(block: Any, x: Tensor, context: Tensor) -> Tensor:
    """`x`: (clips, frames, places, channels), which may be written over; `context`: (clips, tokens,
    channels)."""
    x = _add(block.ff_in, block.norm_in, x)
    if not is_zero_branch(block.attn1):
        turned = block.norm1(x).transpose(1, 2)  # (clips, places, frames, channels)
        seen = block.attn1(turned.flatten(0, 1))
        x += seen.view(*turned.shape[:2], *seen.shape[1:]).transpose(1, 2)
    if not is_zero_branch(block.attn2):
        clips, frames, places, _ = x.shape
        asking = block.norm2(x[:, :1, :1]) if context.shape[1] == 1 else block.norm2(x)
        x += block.attn2(asking.flatten(1, 2), encoder_hidden_states=context).view(
            clips, *asking.shape[1:]
        )
    return _add(block.ff, block.norm3, x)


def _self_attention(block: Any, x: Tensor) -> Tensor:
    if is_zero_branch(block.attn1):
        return x
    out: Tensor = x + block.attn1(block.norm1(x))
    return out


def _cross_attention(block: Any, x: Tensor, context: Tensor) -> Tensor:
    if is_zero_branch(block.attn2):
        return x
    asking = x[:, :1] if context.shape[1] == 1 else x
    out: Tensor = x + block.attn2(block.norm2(asking), encoder_hidden_states=context)
    return out


def _add(feed_forward: Any, norm: Any, x: Tensor) -> Tensor:
    if is_zero_branch(feed_forward):
        return x
    out: Tensor = feed_forward(norm(x))
    out += x
    return out
