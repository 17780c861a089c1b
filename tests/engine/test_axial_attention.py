"""Axial attention gives what attention to all keys gives, and looks at few of them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.checkpoints.table import ASSETS
from svd_core.engine.optimizations import axial_attention as axial
from svd_core.engine.optimizations.axial_attention import attend_by_axis, grid_width
from svd_core.engine.optimizations.patching import patch

STRENGTH = 256.0
"""Of logits: less the squared distance of query and key. All are whole numbers of eighths, so that
single precision holds them exactly and no sum of them depends on its order."""

ROUNDING = 1e-6

Grid = tuple[int, int]


def places(grid: Grid) -> tuple[Tensor, Tensor]:
    height, width = grid
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return x.flatten().float(), y.flatten().float()


def keys(grid: Grid) -> Tensor:
    x, y = places(grid)
    return torch.stack([x, x**2, y, y**2], dim=-1)


def queries(grid: Grid, shift: float) -> Tensor:
    """Queries for places `shift` to the right."""
    x, y = places(grid)
    near = torch.full_like(x, -1.0)
    return STRENGTH * torch.stack([2 * (x + shift), near, 2 * y, near], dim=-1)


def tensors(grid: Grid, shift: float = 0.0, heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each (heads, places, 4)."""
    values = torch.randn(heads, grid[0] * grid[1], 4, generator=torch.Generator().manual_seed(0))
    q, k = queries(grid, shift), keys(grid)
    return q.expand(heads, -1, -1).clone(), k.expand(heads, -1, -1).clone(), values


def eighths(shape: torch.Size, most: int) -> Tensor:
    drawn = torch.randint(-most, most + 1, shape, generator=torch.Generator().manual_seed(1))
    return drawn / 8


def full(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Queries of each call that gives attention to all keys."""
    counts: list[int] = []
    attention = F.scaled_dot_product_attention

    def counting(q: Tensor, *others: Tensor, **more: Any) -> Tensor:
        counts.append(q.shape[-2])
        return attention(q, *others, **more)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counting)
    return counts


@pytest.mark.parametrize("grid", [(9, 16), (16, 9), (24, 24), (8, 40)])
@pytest.mark.parametrize("shift", [0.0, 0.25, 0.5, 1.0])
def test_one_or_two_keys_are_found_without_looking_at_all(
    grid: Grid, shift: float, searched: list[int]
) -> None:
    """At 0.5 two columns are equally near, so that two keys share the weight."""
    q, k, v = tensors(grid, shift)
    found = attend_by_axis(q, k, v, grid[1])
    assert not searched
    assert torch.allclose(found, full(q, k, v), atol=ROUNDING)


@pytest.mark.parametrize("slices", [1, 5])
def test_slices_of_queries_are_the_whole(slices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = tensors((12, 10), 0.5)
    monkeypatch.setattr(axial, "SCORES", 2 * (12 + 10) * 120 // slices)
    assert torch.allclose(attend_by_axis(q, k, v, 10), full(q, k, v), atol=ROUNDING)


@pytest.mark.parametrize("most", [1, 8, 100])
def test_keys_that_are_nearly_a_sum_or_none_at_all(most: int) -> None:
    q, k, v = tensors((12, 10), 0.5)
    k += eighths(k.shape, most)
    found = attend_by_axis(q, k, v, 10)
    assert torch.allclose(found, full(q, k, v), atol=ROUNDING)


def test_queries_with_more_keys_get_all(searched: list[int]) -> None:
    """To a short query many keys are alike."""
    q, k, v = tensors((12, 10), 0.25)
    q[0, 7] /= 2**10
    q[1, 8:10] /= 2**10
    found = attend_by_axis(q, k, v, 10)
    assert searched == [1, 2]
    assert torch.allclose(found, full(q, k, v), atol=ROUNDING)


def test_a_number_that_is_none_is_not_hidden() -> None:
    q, k, v = tensors((12, 10))
    q[0, 3] = torch.nan
    assert attend_by_axis(q, k, v, 10)[0, 3].isnan().all()


@pytest.mark.parametrize("grid", [(9, 16), (16, 9), (24, 24), (8, 40)])
def test_the_width_is_seen_in_the_keys(grid: Grid) -> None:
    coded = keys(grid)
    assert grid_width(coded + eighths(coded.shape, 1)) == grid[1]


@pytest.mark.parametrize("places", [49, 60, 67])
def test_a_picture_too_small_has_no_width(places: int) -> None:
    assert grid_width(torch.randn(places, 4)) == 0


def sharp_layer(strength: float) -> Attention:
    """Attention that reads a query, a key and content from four channels each."""
    layer = Attention(12, heads=1, dim_head=12)
    with torch.no_grad():
        for projection in (layer.to_q, layer.to_k, layer.to_v, layer.to_out[0]):
            projection.weight.zero_()
        for channel in range(4):
            layer.to_q.weight[channel, channel] = strength / layer.scale
            layer.to_k.weight[channel, 4 + channel] = 1.0
            layer.to_v.weight[channel, 8 + channel] = 1.0
            layer.to_out[0].weight[channel, channel] = 1.0
    return layer.requires_grad_(False)


def tokens(grid: Grid, frames: int) -> Tensor:
    content = torch.randn(grid[0] * grid[1], 4, generator=torch.Generator().manual_seed(3))
    frame = torch.cat([queries(grid, 0.25) / 2**10, keys(grid), content], dim=-1)
    return torch.stack([frame + number * (torch.arange(12) >= 8) for number in range(frames)])


@pytest.mark.parametrize("grid", [(12, 20), (4, 5)])
def test_a_layer_that_fetches_places(grid: Grid) -> None:
    layer, x = sharp_layer(2.0**10), tokens(grid, 3)
    forward = axial.axial_attention(layer)
    assert forward is not None
    assert torch.allclose(forward(x), layer(x), atol=ROUNDING)


def test_other_precisions_and_compiled_code_look_at_all_keys(searched: list[int]) -> None:
    forward = axial.axial_attention(sharp_layer(2.0**10).double())
    assert forward is not None
    forward(tokens((12, 20), 1).double())
    assert searched == [240]


@pytest.mark.parametrize("make", [lambda: sharp_layer(2.0), lambda: Attention(64)])
def test_ordinary_attention_is_left_alone(make: Callable[[], Attention]) -> None:
    assert axial.axial_attention(make()) is None


@pytest.mark.slow
def test_svd_nano_fetches_its_cells_this_way(searched: list[int]) -> None:
    unet = UNetSpatioTemporalConditionModel.from_pretrained(ASSETS / "svd-nano" / "unet").eval()
    draw = torch.Generator().manual_seed(0)
    sample = torch.randn(1, 1, 32, 72, 128, generator=draw)
    ids = torch.tensor([[6.0, 127.0, 0.02]])

    def step() -> Tensor:
        with torch.no_grad():
            return unet(sample, torch.tensor(1.6), torch.zeros(1, 1, 32), ids, return_dict=False)[0]

    stock = step()
    asked = searched.count(72 * 128)
    assert patch(unet, [("axial attention", axial.axial_attention)]) == {"axial attention": 1}
    searched.clear()
    assert torch.allclose(step(), stock, atol=3e-6 * float(stock.abs().max()))
    assert searched.count(72 * 128) == asked - 1
