"""`ResnetBlock2D` without its division by one.

Stock divides by `output_scale_factor`, which is 1, in a pass of its own; activations here are in
place, which saves the processor from touching fresh memory.
"""

from typing import Any

from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.engine.optimizations.patching import Forward


def resnet_without_division(layer: Any) -> Forward | None:
    """A forward of a plain block, which neither scales nor resizes."""
    if not isinstance(layer, ResnetBlock2D) or layer.time_embedding_norm != "default":
        return None
    if layer.upsample is not None or layer.downsample is not None or layer.skip_time_act:
        return None
    if layer.output_scale_factor != 1.0 or not isinstance(layer.nonlinearity, nn.SiLU):
        return None

    def forward(x: Tensor, temb: Tensor | None, *_: Any, **__: Any) -> Tensor:
        h = layer.conv1(F.silu(layer.norm1(x), inplace=True))
        if layer.time_emb_proj is not None:
            assert temb is not None
            h += layer.time_emb_proj(F.silu(temb))[:, :, None, None]
        h = layer.conv2(F.silu(layer.norm2(h), inplace=True))
        h += x if layer.conv_shortcut is None else layer.conv_shortcut(x)
        added: Tensor = h
        return added

    return forward
