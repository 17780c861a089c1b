"""Chunked feed-forward: bounds the memory of the widest activations of a step.

Stock writes the hidden numbers of all tokens at once, eight times as many as come in; that is the
peak of a step. A feed-forward looks at one token at a time, so slices give the same. (Stock's own
`enable_forward_chunking` cuts along a dimension that its temporal blocks have turned, and wants
sizes that divide; here tokens are a list, and the last slice may be short.)

Pruned feed-forward: leaves out hidden units whose weights are zero.

A GEGLU unit adds `out * value * gelu(gate)`. It adds zero to every token where its column of the
last layer is zero, or its row and bias of value or of gate, gelu(0) being 0. Inputs that no unit
left reads, and outputs that none writes, need not be touched either. Tokens go through in slices,
so that the hidden numbers, eight times as many as come in, stay in the processor's cache.
"""

from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import FeedForward
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.engine.optimizations.cpu_offload import keep_weights_resident
from svd_core.engine.optimizations.patching import Forward

MIN_SHARE = 0.8
"""Share of units in use from which on gathering weights costs more than it saves."""

SLICE = 2**17
"""Numbers per layer and slice: half a megabyte in single precision, of the megabyte of cache that
a core of today has to itself."""


def pruned_feed_forward(layer: Any) -> Forward | None:
    """A forward of feed-forward `layer` over the units in use, if many are not."""
    if not isinstance(layer, FeedForward) or not isinstance(layer.net[0], GEGLU):
        return None
    into: Any = layer.net[0].proj
    out_of: Any = layer.net[-1]
    value, gate = (_rows(half) for half in _halves(into))
    units = (value & gate & (out_of.weight != 0).any(dim=0)).nonzero().flatten()
    hidden = out_of.in_features
    if len(units) > MIN_SHARE * hidden or not len(units):
        return None
    rows = torch.cat([units, units + hidden])
    inputs = (into.weight[rows] != 0).any(dim=0).nonzero().flatten()
    written = (out_of.weight[:, units] != 0).any(dim=1)
    outputs = (written if out_of.bias is None else written | (out_of.bias != 0)).nonzero().flatten()
    step = max(1, SLICE // len(units))

    def forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
        weight, bias = into.weight[rows][:, inputs], _picked(into.bias, rows)
        back, back_bias = out_of.weight[outputs][:, units], _picked(out_of.bias, outputs)
        tokens = x.reshape(-1, x.shape[-1])
        out = x.new_zeros(len(tokens), out_of.out_features)
        # Compiled, each slice would be code of its own: thousands, which takes hours.
        at_once = len(tokens) if torch.compiler.is_compiling() else step
        slices = zip(torch.split(tokens, at_once), torch.split(out, at_once), strict=True)
        for some, there in slices:
            value, gate = F.linear(some[:, inputs], weight, bias).chunk(2, dim=-1)
            there[:, outputs] = F.linear(value * F.gelu(gate), back, back_bias)
        return out.view(*x.shape[:-1], out_of.out_features)

    return forward


def _halves(into: Any) -> list[tuple[Tensor, Tensor | None]]:
    weights = into.weight.chunk(2)
    biases = (None, None) if into.bias is None else into.bias.chunk(2)
    return list(zip(weights, biases, strict=True))


def _rows(half: tuple[Tensor, Tensor | None]) -> Tensor:
    """Which rows give anything but zero."""
    weight, bias = half
    used = (weight != 0).any(dim=1)
    return used if bias is None else used | (bias != 0)


def _picked(bias: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if bias is None else bias[rows]


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
