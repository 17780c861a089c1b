"""The planner's figures are what counting gives, for SVD-XT at full size, without numbers."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from svd_core.benchmarks.memory_plans import (
    START,
    STEPS,
    clip_flops,
    decode_bytes,
    moved_bytes,
    optimized_on_meta,
    peak_bytes,
    step_bytes,
)
from svd_core.benchmarks.random_models import full_size
from svd_core.checkpoints.memory_plan import (
    GIB,
    STREAMED_SHARE,
    Device,
    ModelSizes,
    estimate_memory,
    plan_memory,
)
from svd_core.checkpoints.table import CHECKPOINTS
from svd_core.engine.optimizations.block_offload import resident_bytes

NEEDS = estimate_memory(CHECKPOINTS["svd-xt"], ModelSizes(), 2)


def test_what_is_alive_at_once_is_counted_and_nothing_twice() -> None:
    def compute() -> torch.Tensor:
        first = torch.empty(1000, device="meta")
        second = first + 1
        del first
        third = second.view(10, 100) + second.view(10, 100)
        return third.add_(1)

    assert peak_bytes(compute) == 2 * 4000


@pytest.fixture(scope="module")
def stock() -> tuple[Any, Any]:
    return full_size()


@pytest.mark.slow
def test_stock_takes_what_was_counted_elsewhere(stock: tuple[Any, Any]) -> None:
    unet, vae = stock
    assert step_bytes(unet, 2) / GIB == pytest.approx(9.27, abs=0.01)
    assert step_bytes(unet, 1) / GIB == pytest.approx(5.25, abs=0.01)
    assert decode_bytes(vae, 25) / GIB == pytest.approx(28.1, abs=0.1)


@pytest.mark.slow
def test_the_planner_expects_what_our_path_takes() -> None:
    unet, vae = (optimized_on_meta(model) for model in full_size())
    assert clip_flops(unet, vae, 25) < clip_flops(unet, vae, 1) < 1.005 * clip_flops(unet, vae, 25)
    assert step_bytes(unet, 2) == pytest.approx(NEEDS.step, rel=0.02)
    # One half at a time takes 4 % less than the fit says, which the planner keeps as a margin.
    assert 0.95 * NEEDS.split_step < step_bytes(unet, 1) < NEEDS.split_step
    assert decode_bytes(vae, 25) == pytest.approx(NEEDS.decode(25), rel=0.13)  # see the margin
    assert decode_bytes(vae, 25) < NEEDS.decode(25)
    for at_once in (1, 4):
        assert decode_bytes(vae, at_once) == pytest.approx(NEEDS.decode(at_once), rel=0.02)


def test_weights_cross_the_bus_as_often_as_they_are_used() -> None:
    parts = ModelSizes(unet=100, vae=10, image_encoder=1)
    model = replace(START, offload="model", decode_chunk_size=1)
    blocks = replace(model, offload="sequential")
    assert moved_bytes(START, parts) == 0
    assert moved_bytes(model, parts) == 2 * 121  # in half precision, and nothing back
    assert moved_bytes(blocks, parts) == 2 * (1 + STEPS * 100 + 2 * 10)
    split = replace(blocks, split_guidance=True, decode_chunk_size=4)
    assert moved_bytes(split, parts) == 2 * (1 + 2 * STEPS * 100 + 2 * 10)
    assert moved_bytes(replace(split, whole_clip=False), parts) == moved_bytes(split, parts)


def test_two_blocks_of_the_unet_are_on_the_gpu_at_a_time() -> None:
    unet, _ = full_size()
    share = resident_bytes(unet) / (2 * ModelSizes().unet)
    assert share == pytest.approx(STREAMED_SHARE, abs=0.001)


def test_svd_xt_fits_into_8_gb_with_all_frames_decoded_together() -> None:
    card = Device(kind="cuda", name="8 GB", total_bytes=8 * 10**9, free_bytes=8 * 10**9)
    found = plan_memory(card, CHECKPOINTS["svd-xt"])
    assert (found.offload, found.split_guidance, found.whole_clip) == ("model", True, True)
    assert NEEDS.peak(found) < 8e9 * 0.9
