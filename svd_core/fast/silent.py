"""Layers that add nothing are not computed.

A residual branch whose last layer is zero adds zero; attention whose queries are zero looks
everywhere equally, which is a mean. Small checkpoints such as svd-nano carry many of both, because
the architecture demands the layers and the model does not need them. What is left out would have
changed the result by rounding at most.
"""

from collections.abc import Callable
from typing import Any

from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D, SpatioTemporalResBlock, TemporalResnetBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import Tensor, nn


def skip_silent(model: nn.Module) -> int:
    """Give every layer of `model` that adds nothing a forward that says so; returns how many.

    Weights are looked at once, now. Idempotent. The state dict stays as it is.
    """
    found = 0
    for module in list(model.modules()):
        forward = _shorter(module)
        if forward is not None:
            module.forward = forward
            found += 1
    return found


def _shorter(module: Any) -> Callable[..., Any] | None:
    if isinstance(module, ResnetBlock2D):
        plain = module.upsample is None and module.downsample is None
        return _shortcut(module) if plain and _is_zero(module.conv2) else None
    if isinstance(module, TemporalResnetBlock):
        return _shortcut(module) if _is_zero(module.conv2) else None
    if isinstance(module, SpatioTemporalResBlock):
        silent = module.temporal_res_block
        if _is_zero(silent.conv2) and silent.conv_shortcut is None:
            return lambda x, temb=None, **_: module.spatial_res_block(x, temb)
    if isinstance(module, TransformerSpatioTemporalModel) and _is_zero(module.proj_out):
        return lambda x, *_, **__: (x,)
    if isinstance(module, Attention) and not module.residual_connection:
        return _attention(module)
    if isinstance(module, FeedForward) and _is_zero(module.net[-1]):
        return _nothing
    return None


def _shortcut(block: Any) -> Callable[..., Tensor]:
    scale = getattr(block, "output_scale_factor", 1.0)

    def forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
        passed: Tensor = x if block.conv_shortcut is None else block.conv_shortcut(x)
        return passed if scale == 1.0 else passed / scale

    return forward


def _attention(layer: Any) -> Callable[..., Tensor] | None:
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
