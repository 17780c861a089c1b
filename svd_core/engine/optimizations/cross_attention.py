"""Cross-attention over a single token is constant, since softmax of one logit is 1.

The photo is the only token SVD's UNet looks at, in 32 layers for SVD-XT. Whatever the query, the
answer is `to_out(to_v(token))`, one vector for each row of the batch (Qualcomm's MobileVD leaves
the same layers out). It is worked out at every step, not once per clip: it costs nothing that
could be measured, and there is no state to go stale. The vector is added to all places alike.
"""

from typing import Any

from diffusers.models.attention_processor import Attention
from torch import Tensor

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
