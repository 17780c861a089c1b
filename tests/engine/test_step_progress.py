"""Progress within a step counts the work of the layers that are computed, and can stop the step."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from svd_core.engine.optimizations.registry import OPTIMIZATIONS, apply_optimizations
from svd_core.engine.optimizations.torch_compile import compile_blocks
from svd_core.engine.step_progress import count_step, layer_costs
from svd_core.errors import Cancelled
from tests.fakes.random_checkpoint import denoise, random_models


@pytest.fixture
def unet() -> nn.Module:
    return random_models()["unet"]


def optimize(unet: nn.Module) -> None:
    apply_optimizations(SimpleNamespace(unet=unet, vae=nn.Identity()), only=OPTIMIZATIONS)


def hooks(unet: nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in unet.modules())


def shares_of_a_step(unet: nn.Module) -> list[float]:
    shares: list[float] = []
    with count_step(unet, shares.append):
        denoise(unet)
    return shares


def silence(layers: list[Any]) -> None:
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


@pytest.mark.parametrize("optimized", [False, True])
def test_the_share_grows_to_the_whole_in_small_parts(unet: nn.Module, optimized: bool) -> None:
    if optimized:
        optimize(unet)
    shares = shares_of_a_step(unet)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    parts = torch.tensor([0.0, *shares]).diff()
    assert parts.max() < 0.15


def test_each_step_begins_at_nothing(unet: nn.Module) -> None:
    shares: list[float] = []
    with count_step(unet, shares.append):
        denoise(unet)
        first = list(shares)
        denoise(unet)
    assert shares == [*first, *first]


def test_layers_of_outer_levels_take_most_of_it(unet: nn.Module) -> None:
    costs = layer_costs(unet)
    outer, inner = (
        block.resnets[0].spatial_res_block.conv1 for block in (unet.down_blocks[0], unet.mid_block)
    )
    assert outer.weight.shape == inner.weight.shape
    assert costs[outer] == 4 * costs[inner]
    assert not any("time_emb" in name and layer in costs for name, layer in unet.named_modules())


def test_branches_that_are_skipped_are_no_work(unet: nn.Module) -> None:
    block = unet.down_blocks[0].resnets[0]
    transformer = unet.down_blocks[0].attentions[0]
    silence([block.temporal_res_block.conv2, transformer.proj_out])
    optimize(unet)
    costs = layer_costs(unet)
    assert block.spatial_res_block.conv1 in costs
    assert block.temporal_res_block.conv1 not in costs
    assert not any(layer in costs for layer in transformer.modules())
    assert shares_of_a_step(unet)[-1] == pytest.approx(1.0)


@pytest.mark.slow
def test_compiled_blocks_are_counted_as_one(unet: nn.Module) -> None:
    """A hook within a block would be compiled, or would break the block apart."""
    compile_blocks(unet, backend="eager")
    block = unet.mid_block.resnets[0]
    with count_step(unet, lambda _: None):
        assert len(block._forward_hooks) == 1
        assert hooks(block) == 1
    shares = shares_of_a_step(unet)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


def test_a_step_can_be_stopped_and_leaves_no_hook(unet: nn.Module) -> None:
    stock = denoise(unet)
    seen: list[float] = []

    def stop(share: float) -> None:
        seen.append(share)
        if share > 0.5:
            raise Cancelled

    with pytest.raises(Cancelled), count_step(unet, stop):
        denoise(unet)
    assert seen[-1] < 0.7
    assert hooks(unet) == 0
    assert torch.equal(denoise(unet), stock)
