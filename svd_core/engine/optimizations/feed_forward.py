"""Chunked feed-forward: bounds the memory of the widest activations of a step.

Stock writes the hidden numbers of all tokens at once, eight times as many as come in; that is the
peak of a step. A feed-forward looks at one token at a time, so slices give the same. (Stock's own
`enable_forward_chunking` cuts along a dimension that its temporal blocks have turned, and wants
sizes that divide; here tokens are a list, and the last slice may be short.)
"""

from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import FeedForward
from torch import Tensor

from svd_core.engine.optimizations.patching import Forward
from svd_core.engine.optimizations.sequential_offload import keep_weights_resident

HIDDEN = 2**27
"""Numbers of one slice: a quarter of a gigabyte in half precision, ample work for a GPU."""


def chunked_feed_forward(layer: Any) -> Forward | None:
    """A forward of feed-forward `layer` in slices; a small input is one slice."""
    if not isinstance(layer, FeedForward) or not isinstance(layer.net[0], GEGLU):
        return None
    stock = layer.forward
    last: Any = layer.net[-1]
    step = max(1, HIDDEN // (2 * last.in_features))

    def forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        if len(tokens) <= step:
            whole: Tensor = stock(x)
            return whole
        out = x.new_empty(len(tokens), last.out_features)
        with keep_weights_resident(layer):
            for some, there in zip(torch.split(tokens, step), torch.split(out, step), strict=True):
                there.copy_(stock(some))
        return out.view(*x.shape[:-1], last.out_features)

    return forward
