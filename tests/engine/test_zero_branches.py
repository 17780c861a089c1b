"""Layers that add nothing are left out, and nothing changes; layers that add something are not."""

from pathlib import Path

import pytest
import torch
from diffusers.models.attention import FeedForward
from torch import nn

from svd_core.engine.optimizations.patching import patch
from svd_core.engine.optimizations.transformer import pruned_feed_forward
from svd_core.engine.optimizations.zero_branches import skip_zero_branches
from tests.fakes.tiny_checkpoint import build


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("tiny") / "tiny")


def run(unet: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    config = unet.config
    sample = torch.randn(1, 3, config.in_channels, 8, 8, generator=generator)
    hidden = torch.randn(1, 1, config.cross_attention_dim, generator=generator)
    ids = torch.tensor([[6.0, 127.0, 0.02]])
    with torch.no_grad():
        return unet(sample, torch.tensor(1.0), hidden, ids, return_dict=False)[0]


def skip_silent(unet: nn.Module) -> int:
    """How many layers were given a shorter forward."""
    return patch(unet, [("silent", skip_zero_branches)])["silent"]


def fresh(folder: Path) -> nn.Module:
    from diffusers import UNetSpatioTemporalConditionModel

    return UNetSpatioTemporalConditionModel.from_pretrained(folder / "unet", variant="fp16").eval()


ENDS = ("conv2", "to_out.0", "ff.net.2", "ff_in.net.2", "proj_out")


@pytest.mark.parametrize("end", ENDS)
def test_leaving_out_silent_layers_changes_nothing(folder: Path, end: str) -> None:
    unet = fresh(folder)
    silent = [m for name, m in unet.named_modules() if name.endswith(end)][::2]
    assert silent
    for module in silent:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
    before = run(unet)
    assert skip_silent(unet) >= len(silent)
    assert torch.allclose(run(unet), before, atol=1e-5)


@pytest.mark.parametrize("zeroed", ["to_q", "to_k"])
def test_attention_that_looks_everywhere_equally_is_a_mean(folder: Path, zeroed: str) -> None:
    unet = fresh(folder)
    for name, module in unet.named_modules():
        if name.endswith(f"attn1.{zeroed}"):
            nn.init.zeros_(module.weight)
    before = run(unet)
    assert skip_silent(unet) > 0
    assert torch.allclose(run(unet), before, atol=1e-5)


def test_a_checkpoint_without_silent_layers_is_left_alone(folder: Path) -> None:
    unet = fresh(folder)
    generator = torch.Generator().manual_seed(0)
    for parameter in unet.parameters():
        parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    before = run(unet)
    assert skip_silent(unet) == 0
    assert torch.equal(run(unet), before)


@pytest.mark.parametrize("bias", [True, False])
def test_units_inputs_and_outputs_without_weights_are_left_out(bias: bool) -> None:
    layer = FeedForward(24, mult=4, activation_fn="geglu", bias=bias)
    into, out_of = layer.net[0].proj, layer.net[2]
    with torch.no_grad():
        out_of.weight[:, :40] = 0  # units without an output
        into.weight[50:60] = 0  # values that are nothing
        into.weight[96 + 60 : 96 + 70] = 0  # gates that stay shut
        into.weight[:, 3:9] = 0  # inputs that no unit reads
        out_of.weight[5:8] = 0  # outputs that no unit writes
        if bias:
            into.bias[50:60] = 0
            into.bias[96 + 60 : 96 + 70] = 0
    tokens = torch.randn(3, 2000, 24, generator=torch.Generator().manual_seed(0))
    forward = pruned_feed_forward(layer)
    assert forward is not None
    with torch.no_grad():
        assert torch.allclose(forward(tokens), layer(tokens), atol=1e-6)


def test_compiled_all_slices_are_one() -> None:
    """As code, each would be compiled for itself, and svd-nano has two thousand."""
    layer = FeedForward(24, mult=4, activation_fn="geglu")
    with torch.no_grad():
        layer.net[2].weight[:, :40] = 0
    forward = pruned_feed_forward(layer)
    assert forward is not None
    tokens = torch.randn(8000, 24, generator=torch.Generator().manual_seed(0))
    products = []

    def backend(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        products.extend(node for node in graph.graph.nodes if "linear" in node.name)
        return graph

    with torch.no_grad():
        found = torch.compile(forward, backend=backend, dynamic=False)(tokens)
        assert torch.allclose(found, forward(tokens), atol=1e-6)
    assert len(products) == 2


def test_a_gate_or_value_that_is_only_a_bias_is_a_unit_in_use() -> None:
    layer = FeedForward(24, mult=4, activation_fn="geglu")
    with torch.no_grad():
        layer.net[0].proj.weight[10:] = 0  # all but ten values, and every gate: biases are left
        layer.net[2].weight[:, 40:] = 0
    tokens = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0))
    forward = pruned_feed_forward(layer)
    assert forward is not None
    with torch.no_grad():
        assert torch.allclose(forward(tokens), layer(tokens), atol=1e-6)


def test_a_feed_forward_in_full_use_is_left_alone() -> None:
    assert pruned_feed_forward(FeedForward(24, mult=4, activation_fn="geglu")) is None
