"""Skip branches whose output weights are zero.

A residual branch whose last layer is zero adds zero. Attention whose queries or keys are zero gives
all tokens the same weight, which is a mean. Small checkpoints such as svd-nano have many of both,
since the architecture demands layers that they do not need. Skipping them differs only by rounding.
"""

from typing import Any

from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D, SpatioTemporalResBlock, TemporalResnetBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import Tensor

from svd_core.engine.optimizations.patching import Forward, PatchedForward


def skip_zero_branches(layer: Any) -> Forward | None:
    """A shorter forward of a layer that adds zero, or the same to all tokens; None for others."""
    if isinstance(layer, ResnetBlock2D):
        plain = layer.upsample is None and layer.downsample is None
        return _shortcut(layer) if plain and _is_zero(layer.conv2) else None
    if isinstance(layer, TemporalResnetBlock):
        return _shortcut(layer) if _is_zero(layer.conv2) else None
    if isinstance(layer, SpatioTemporalResBlock):
        inner = layer.temporal_res_block
        if _is_zero(inner.conv2) and inner.conv_shortcut is None:
            return lambda x, temb=None, **_: layer.spatial_res_block(x, temb)
    if isinstance(layer, TransformerSpatioTemporalModel) and _is_zero(layer.proj_out):
        return lambda x, *_, **__: (x,)
    if isinstance(layer, Attention) and not layer.residual_connection:
        return _attention(layer)
    if isinstance(layer, FeedForward) and _is_zero(layer.net[-1]):
        return _zero
    return None


def is_zero_branch(layer: Any) -> bool:
    """Whether `layer` is patched to give zero, so that its inputs need not be computed."""
    forward = vars(layer).get("forward")
    return isinstance(forward, PatchedForward) and forward.forward is _zero


def _shortcut(block: Any) -> Forward:
    scale = getattr(block, "output_scale_factor", 1.0)

    def forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
        skip: Tensor = x if block.conv_shortcut is None else block.conv_shortcut(x)
        return skip if scale == 1.0 else skip / scale

    return forward


def _attention(layer: Any) -> Forward | None:
    if _is_zero(layer.to_out[0]):
        return _zero
    if not (_is_zero(layer.to_q) or _is_zero(layer.to_k)) or layer.norm_q is not None:
        return None

    def mean(x: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any) -> Tensor:
        context = x if encoder_hidden_states is None else encoder_hidden_states
        return layer.to_out[0](layer.to_v(context).mean(dim=1, keepdim=True))

    return mean


def _zero(x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Zero, of a shape that can be added to any other."""
    return x.new_zeros(())


def _is_zero(layer: Any) -> bool:
    return all(not parameter.detach().any() for parameter in layer.parameters())
