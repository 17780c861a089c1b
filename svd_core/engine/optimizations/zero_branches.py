"""Skip branches whose output weights are zero.

A residual branch whose last layer is zero adds zero; attention whose queries are zero looks
everywhere equally, which is a mean. Small checkpoints such as svd-nano carry many of both, because
the architecture demands the layers and the model does not need them. What is left out would have
changed the result by rounding at most.
"""

from typing import Any

from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D, SpatioTemporalResBlock, TemporalResnetBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import Tensor

from svd_core.engine.optimizations.patching import Forward, PatchedForward


def skip_zero_branches(layer: Any) -> Forward | None:
    """A shorter forward of `layer`, if it adds nothing or the same everywhere."""
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
        return _nothing
    return None


def is_zero_branch(layer: Any) -> bool:
    """Whether `layer` was found to answer zero, so that what only it reads need not be computed."""
    forward = vars(layer).get("forward")
    return isinstance(forward, PatchedForward) and forward.forward is _nothing


def _shortcut(block: Any) -> Forward:
    scale = getattr(block, "output_scale_factor", 1.0)

    def forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
        passed: Tensor = x if block.conv_shortcut is None else block.conv_shortcut(x)
        return passed if scale == 1.0 else passed / scale

    return forward


def _attention(layer: Any) -> Forward | None:
    if _is_zero(layer.to_out[0]):
        return _nothing
    if not (_is_zero(layer.to_q) or _is_zero(layer.to_k)) or layer.norm_q is not None:
        return None

    def mean(x: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any) -> Tensor:
        seen = x if encoder_hidden_states is None else encoder_hidden_states
        out: Tensor = layer.to_out[0](layer.to_v(seen).mean(dim=1, keepdim=True))
        return out

    return mean


def _nothing(x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Zero, of a shape that adds to anything."""
    return x.new_zeros(())


def _is_zero(layer: Any) -> bool:
    return all(not parameter.detach().any() for parameter in layer.parameters())
