"""Layers that add nothing are left out, and nothing changes; layers that add something are not."""

from pathlib import Path

import pytest
import torch
from torch import nn

from svd_core.fast.silent import skip_silent
from svd_core.loading import open_folder
from tests.tiny_checkpoint import build


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


def test_loading_leaves_out_what_is_silent(folder: Path) -> None:
    pipeline = open_folder(folder, half=False, on_bytes=lambda _had, _total: None)
    again = skip_silent(pipeline.unet)
    assert skip_silent(pipeline.unet) == again
