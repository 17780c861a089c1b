"""Every exact rewrite computes what stock diffusers computes, alone and with all others."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers.models.resnet import TemporalResnetBlock
from torch import nn

from svd_core.checkpoints.memory_plan import MemoryPlan
from svd_core.engine.optimizations import transformer, vae_decode
from svd_core.engine.optimizations.patching import patched_layers
from svd_core.engine.optimizations.probe import WIDER
from svd_core.engine.optimizations.registry import (
    OPTIMIZATIONS,
    apply_optimizations,
    optimizations_for,
)
from svd_core.engine.optimizations.vae_decode import chunked_decode
from svd_core.engine.pipeline_loader import open_folder, place
from svd_core.errors import Cancelled
from tests.fakes.random_checkpoint import decode, denoise, random_models

ROUNDING = 3e-6
"""Of the largest number that comes out, in single precision."""

ON_CPU = MemoryPlan(device="cpu", dtype="float32", decode_chunk_size=2)
ON_CUDA = MemoryPlan(device="cuda", dtype="float16", decode_chunk_size=2)

OWN_TESTS = ("silent", "units", "axial attention", "norms")

CHANGING = [name for name in OPTIMIZATIONS if name not in OWN_TESTS]
"""Those that have something to do where nothing is silent. The others have tests of their own."""


@pytest.fixture
def models() -> dict[str, nn.Module]:
    return random_models()


def differ(found: torch.Tensor, stock: torch.Tensor) -> float:
    return float((found - stock).abs().max() / stock.abs().max())


@pytest.mark.parametrize("name", CHANGING)
def test_a_rewrite_alone_changes_rounding_only(models: dict[str, nn.Module], name: str) -> None:
    stock = denoise(models["unet"], halves=2), decode(models["vae"])
    assert apply_optimizations(SimpleNamespace(**models), only=[name])[name] > 0
    assert differ(denoise(models["unet"], halves=2), stock[0]) < ROUNDING
    assert differ(decode(models["vae"]), stock[1]) < ROUNDING


@pytest.mark.parametrize("halves", [1, 2])
@pytest.mark.parametrize(("frames", "height", "width"), [(1, 8, 8), (2, 12, 10), (25, 6, 4)])
def test_all_together_change_rounding_only(
    models: dict[str, nn.Module], halves: int, frames: int, height: int, width: int
) -> None:
    shape = {"frames": frames, "height": height, "width": width}
    stock = denoise(models["unet"], halves, **shape), decode(models["vae"], **shape)
    apply_optimizations(SimpleNamespace(**models), only=OPTIMIZATIONS)
    assert differ(denoise(models["unet"], halves, **shape), stock[0]) < ROUNDING
    assert differ(decode(models["vae"], **shape), stock[1]) < ROUNDING


@pytest.mark.parametrize("dtype", WIDER)
def test_they_are_as_near_to_the_truth_as_stock(
    models: dict[str, nn.Module], dtype: torch.dtype
) -> None:
    for model in models.values():
        model.to(WIDER[dtype])
    truth = {"unet": denoise(models["unet"], 2), "vae": decode(models["vae"])}
    for model in models.values():
        model.to(dtype)
    stock = {"unet": denoise(models["unet"], 2), "vae": decode(models["vae"])}
    apply_optimizations(SimpleNamespace(**models), only=OPTIMIZATIONS)
    ours = {"unet": denoise(models["unet"], 2), "vae": decode(models["vae"])}
    for part, right in truth.items():
        error, stock_error = (
            float((made[part] - right).square().mean().sqrt()) for made in (ours, stock)
        )
        assert error <= 1.05 * stock_error


def test_none_is_stock_again_to_the_bit(models: dict[str, nn.Module]) -> None:
    stock = denoise(models["unet"], halves=2), decode(models["vae"])
    state = {name: value.clone() for name, value in models["unet"].state_dict().items()}
    apply_optimizations(SimpleNamespace(**models), only=OPTIMIZATIONS)
    assert models["unet"].state_dict().keys() == state.keys()
    assert all(torch.equal(models["unet"].state_dict()[name], state[name]) for name in state)
    apply_optimizations(SimpleNamespace(**models), only=[])
    assert torch.equal(denoise(models["unet"], halves=2), stock[0])
    assert torch.equal(decode(models["vae"]), stock[1])


def test_two_clips_in_a_row_are_the_same(models: dict[str, nn.Module]) -> None:
    apply_optimizations(SimpleNamespace(**models), only=OPTIMIZATIONS)
    first = denoise(models["unet"], halves=2)
    denoise(models["unet"], halves=1, frames=5)
    assert torch.equal(denoise(models["unet"], halves=2), first)


def test_more_than_one_token_is_looked_at_properly(models: dict[str, nn.Module]) -> None:
    unet = models["unet"]
    block = unet.down_blocks[0].attentions[0].transformer_blocks[0]
    draw = torch.Generator().manual_seed(3)
    places, tokens = (torch.randn(2, n, c, generator=draw) for n, c in ((6, 32), (4, 16)))
    with torch.no_grad():
        stock = block(places, encoder_hidden_states=tokens)
        apply_optimizations(SimpleNamespace(**models), only=OPTIMIZATIONS)
        assert differ(block(places, encoder_hidden_states=tokens), stock) < ROUNDING


def test_a_device_gets_what_saves_time_there() -> None:
    assert "units" in optimizations_for(ON_CPU)
    assert "units" not in optimizations_for(ON_CUDA)
    assert "norms" in optimizations_for(ON_CUDA)
    assert "norms" not in optimizations_for(ON_CPU)


@pytest.mark.parametrize("rewrites", [[], OPTIMIZATIONS])
@pytest.mark.parametrize(("frames", "at_once"), [(5, 1), (5, 2), (25, 4)])
def test_a_clip_decoded_in_slices_is_the_clip_decoded_at_once(
    models: dict[str, nn.Module],
    monkeypatch: pytest.MonkeyPatch,
    rewrites: list[str],
    frames: int,
    at_once: int,
) -> None:
    stock = decode(models["vae"], frames, 5, 3)
    monkeypatch.setattr(vae_decode, "ROWS_BYTES", 2**14)  # several slices of rows
    apply_optimizations(SimpleNamespace(**models), only=rewrites)
    shares: list[float] = []
    with chunked_decode(models["vae"].decoder, at_once, shares.append):
        assert differ(decode(models["vae"], frames, 5, 3), stock) < ROUNDING
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("silent", ["all", "some"])
def test_temporal_halves_that_add_zero_take_no_time(
    models: dict[str, nn.Module], silent: str
) -> None:
    vae = models["vae"]
    blocks = [each for each in vae.decoder.modules() if isinstance(each, TemporalResnetBlock)]
    for block in blocks[:: 1 if silent == "all" else 2]:
        for parameter in block.conv2.parameters():
            nn.init.zeros_(parameter)
    stock = decode(vae, frames=3)
    apply_optimizations(SimpleNamespace(**models), only=OPTIMIZATIONS)
    shares: list[float] = []
    with chunked_decode(vae.decoder, 1, shares.append):
        assert differ(decode(vae, frames=3), stock) < ROUNDING
    left = 0 if silent == "all" else len(blocks) // 2
    assert len(shares) == 3 * (left + 1)


def test_decoding_can_be_stopped_and_leaves_the_decoder_as_it_was(
    models: dict[str, nn.Module],
) -> None:
    stock = decode(models["vae"])

    def stop(share: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled), chunked_decode(models["vae"].decoder, 1, stop):
        decode(models["vae"])
    assert torch.equal(decode(models["vae"]), stock)


@pytest.mark.parametrize("halves", [1, 2])
def test_feed_forwards_in_slices_are_feed_forwards(
    models: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch, halves: int
) -> None:
    """Slices that do not divide the tokens: stock's own chunking gives noise or refuses there."""
    stock = denoise(models["unet"], halves, frames=5, height=6, width=10)
    monkeypatch.setattr(transformer, "CHUNK_SIZE", 7 * 256)
    apply_optimizations(SimpleNamespace(**models), only=["slices"])
    ours = denoise(models["unet"], halves, frames=5, height=6, width=10)
    assert differ(ours, stock) < ROUNDING


def test_with_model_offload_the_clip_is_the_same(tiny_checkpoint: Path) -> None:
    """Offloaded from a CPU to itself, which moves no byte but goes the ways of a GPU."""
    pipeline = open_folder(tiny_checkpoint, False, lambda *_: None)
    place(pipeline, ON_CPU)
    there = denoise(pipeline.unet, halves=2), decode(pipeline.vae, frames=5)
    place(pipeline, replace(ON_CPU, offload="model", split_guidance=True))
    assert list(patched_layers(pipeline.vae))
    away = denoise(pipeline.unet, halves=2)
    assert differ(away, there[0]) < ROUNDING
    with chunked_decode(pipeline.vae.decoder, 2, lambda _: None):
        assert differ(decode(pipeline.vae, frames=5), there[1]) < ROUNDING
    place(pipeline, ON_CPU)
    assert differ(denoise(pipeline.unet, halves=2), there[0]) < ROUNDING
    assert differ(decode(pipeline.vae, frames=5), there[1]) < ROUNDING
