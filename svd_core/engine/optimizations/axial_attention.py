"""Axial attention: exact attention that skips keys whose softmax weight is zero.

The weight of a key is exp(logit - largest logit), which single precision rounds to zero if they
differ by more than 104. In svd-nano, attention fetches cells by their place, with logits of 1e9. So
one to four keys of 9216 share all the weight.

A key that encodes a place is a sum of one vector for the column, one for the row, and a small
residual. So is its logit, and the largest is found among columns and among rows: 200 products for
each query instead of 9216. The residual, measured at every call, bounds the error of the sum, and
so the keys that may have weight. If they are in more than two columns or rows, or if keys are not
such a sum, a query gets attention to all keys.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.engine.optimizations.patching import Forward
from svd_core.engine.optimizations.transformer import fused_qkv_attention, joined_projection

SHARP = 1e3
"""Deviation of the logits, for tokens of variance 1, above which the search is tried. Ordinary
layers have about 1."""

UNDERFLOW = 104.0
"""exp(-104) rounds to zero in single precision."""

MIN_SIDE = 8
"""Least number of columns, and of rows, for which the search pays."""

SCORES = 2**20
"""Scores computed at once: four megabytes."""


def axial_attention(layer: Any) -> Forward | None:
    """A forward of self-attention with huge logits; None for layers of ordinary logits."""
    dense = fused_qkv_attention(layer)
    if dense is None or layer.to_q.weight.is_meta or not _is_sharp(layer):
        return None

    def forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
        if torch.compiler.is_compiling() or x.dtype != torch.float32:
            return dense(x)
        width = 0
        fetched = torch.empty_like(x)
        for tokens, target in zip(x, fetched, strict=True):
            q, k, v = joined_projection(layer, tokens[None])[:, 0].contiguous()
            width = width or grid_width(k[0])
            if not width:
                return dense(x)
            attended = attend_by_axis(q * layer.scale, k, v, width)
            target.copy_(attended.transpose(0, 1).flatten(1))
        return layer.to_out[0](fetched)

    return forward


def _is_sharp(layer: Any) -> bool:
    query, key = (
        projection.weight.detach().float().unflatten(0, (layer.heads, -1))
        for projection in (layer.to_q, layer.to_k)
    )
    products = query.transpose(1, 2) @ key  # of tokens, for each head
    return bool(layer.scale * products.flatten(1).norm(dim=1).max() > SHARP)


def grid_width(keys: Tensor) -> int:
    """Number of columns for which `keys` (places, channels), row after row, are nearest to a sum.

    0 if every possible picture is too small.
    """
    places = len(keys)
    widths = [w for w in range(MIN_SIDE, places // MIN_SIDE + 1) if places % w == 0]
    return min(widths, default=0, key=lambda width: _mixed(keys.view(-1, width, keys.shape[-1])))


def _mixed(grid: Tensor) -> float:
    """Largest mixed second difference of `grid` (rows, columns, channels); zero for a sum."""
    return float(grid.diff(dim=0).diff(dim=1).abs().max())


def attend_by_axis(q: Tensor, k: Tensor, v: Tensor, width: int) -> Tensor:
    """Attention of scaled queries `q` to `k` and `v`, each (heads, places, channels).

    `width`: columns of the picture.
    """
    heads, places, channels = k.shape
    grid = k.view(heads, -1, width, channels)
    columns = grid.mean(dim=1)
    rows = grid.mean(dim=2) - columns.mean(dim=1, keepdim=True)
    rest = (grid - columns[:, None] - rows[:, :, None]).abs().amax(dim=(1, 2))
    # Bound of the rounding error of two sums of products: stock's, and the one here.
    roundings = 4 * (channels + 2) * torch.finfo(q.dtype).eps
    bound = 2 * rest + roundings * (k.abs().amax(dim=1) + rest)
    all_keys, all_values = k.flatten(0, 1), v.flatten(0, 1)
    out = torch.empty_like(q)
    step = max(1, SCORES // (heads * (width + places // width)))
    for queries, target in zip(torch.split(q, step, 1), torch.split(out, step, 1), strict=True):
        margin = UNDERFLOW + queries.abs() @ bound[..., None]
        column, row = (_Side(queries @ side.transpose(1, 2), margin) for side in (columns, rows))
        head = torch.arange(heads)[:, None].expand(queries.shape[:2])
        target.copy_(all_values[head * places + row.first * width + column.first])
        several = ~(column.alone & row.alone)
        if not several.any():
            continue
        (x, known_in_x), (y, known_in_y) = (side.two_largest(several) for side in (column, row))
        head = head[several]
        near = torch.stack([head * places + one_y * width + one_x for one_y in y for one_x in x])
        asking = queries[several]
        logits = (asking * all_keys[near]).sum(dim=-1, keepdim=True)
        mixed = (logits.softmax(dim=0) * all_values[near]).sum(dim=0)
        unknown = ~(known_in_x & known_in_y)
        for number in head[unknown].bincount().nonzero().flatten().tolist():
            which = unknown & (head == number)
            mixed[which] = F.scaled_dot_product_attention(
                asking[which][None], k[number][None], v[number][None], scale=1.0
            )[0]
        target[several] = mixed
    return out


class _Side:
    """Scores (heads, queries, columns) of the columns, or of the rows.

    `first`: index of the largest score. `alone`: whether all others are less by more than `margin`
    (heads, queries, 1).
    """

    def __init__(self, scores: Tensor, margin: Tensor) -> None:
        largest, first = scores.max(dim=-1, keepdim=True)
        self._scores, self._least = scores.scatter_(-1, first, -torch.inf), largest - margin
        self.first = first[..., 0]
        self.alone = (scores.amax(dim=-1, keepdim=True) < self._least)[..., 0]

    def two_largest(self, which: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Indices of the two largest scores, of queries in the mask `which`, and whether all other
        scores are less by more than the margin."""
        scores = self._scores[which]
        second = scores.argmax(dim=-1, keepdim=True)
        scores.scatter_(-1, second, -torch.inf)
        known = scores.amax(dim=-1, keepdim=True) < self._least[which]
        return (self.first[which], second[..., 0]), known[..., 0]
