"""Candidates for GroupNorm compute what torch's does, Triton's in its interpreter."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.engine.optimizations import group_norm
from svd_core.engine.optimizations.group_norm import (
    NORMS,
    framewise_norm,
    norm_choice,
    triton_norm,
)
from svd_core.engine.optimizations.kernels import Kernels, Size, part_case
from svd_core.engine.optimizations.probe import MAX_ERROR_RATIO, ROUNDING, Probe
from svd_core.engine.optimizations.registry import OPTIMIZATIONS, apply_optimizations
from svd_core.engine.pipeline_loader import open_folder, place
from tests.engine.test_optimizations import ON_CPU
from tests.fakes.random_checkpoint import decode, denoise, random_models

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ROOT = Path(__file__).parents[2]

in_interpreter = pytest.mark.skipif(not INTERPRETED, reason="runs in Triton's interpreter")
"""These tests run in a process of `test_tritons_kernels_in_its_interpreter`: the interpreter is
chosen when a kernel is defined."""


def layouts(x: Tensor) -> Iterator[Tensor]:
    """`x` (samples, channels, rows, columns) with channels, rows, and columns outermost."""
    yield x
    yield x.transpose(1, 2).contiguous().transpose(1, 2)
    yield x.contiguous(memory_format=torch.channels_last)


def layer_and_clip(
    clips: int, channels: int, frames: int, places: int, dtype: torch.dtype
) -> tuple[nn.GroupNorm, Tensor]:
    draw = torch.Generator().manual_seed(channels)
    layer = nn.GroupNorm(32, channels)
    nn.init.normal_(layer.weight, generator=draw)
    nn.init.normal_(layer.bias, generator=draw)
    x = torch.randn(clips, channels, frames, places, generator=draw) * 2 + 1
    return layer.to(dtype), x.to(dtype)


def error(found: Tensor, truth: Tensor) -> float:
    return float((found.double() - truth).norm() / truth.norm())


SHAPES = ((2, 96, 3, 20), (1, 32, 2, 1100))
"""Clips, channels, frames and places; the interpreter is slow."""


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks for each group, also of a small clip."""
    if INTERPRETED:
        from svd_core.engine.optimizations import norm_kernels

        monkeypatch.setattr(norm_kernels, "LEAST_RUN", 300)


@pytest.mark.parametrize(
    ("dtype", "silu"),
    [(torch.float16, True), (torch.float16, False), (torch.bfloat16, True), (torch.float32, True)],
)
@pytest.mark.parametrize("name", ["framewise", pytest.param("triton", marks=in_interpreter)])
@torch.no_grad()
def test_a_norm_is_as_near_to_the_truth_as_torchs(
    name: str, dtype: torch.dtype, silu: bool
) -> None:
    for shape in SHAPES if dtype == torch.float16 and silu else SHAPES[:1]:
        layer, x = layer_and_clip(*shape, dtype)
        truth = F.group_norm(x.double(), 32, layer.weight.double(), layer.bias.double(), layer.eps)
        truth = F.silu(truth) if silu else truth
        for clip in layouts(x):
            before = clip.clone()
            found = NORMS[name](layer, clip, silu)
            stock = error(NORMS["torch"](layer, clip, silu), truth)
            ratio = MAX_ERROR_RATIO
            if name == "triton" and dtype == torch.bfloat16:
                ratio = 1.5  # the interpreter cuts digits off where a GPU rounds
            assert error(found, truth) <= max(ratio * stock, ROUNDING)
            assert found.shape == clip.shape
            assert torch.equal(clip, before)


@in_interpreter
@torch.no_grad()
def test_the_kernels_keep_channels_where_a_convolution_reads_them() -> None:
    layer, x = layer_and_clip(1, 64, 3, 40, torch.float16)
    outermost, rows, innermost = (triton_norm(layer, clip) for clip in layouts(x))
    assert outermost.is_contiguous()
    assert rows.is_contiguous()  # a convolution over frames follows
    assert innermost.is_contiguous(memory_format=torch.channels_last)


@in_interpreter
@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # beyond the end of a block
@torch.no_grad()
def test_the_kernels_take_numbers_far_from_zero() -> None:
    layer, x = layer_and_clip(1, 32, 3, 150, torch.float32)
    x = x * 0.1 + 4  # twenty times as far as it is wide
    truth = F.silu(
        F.group_norm(x.double(), 32, layer.weight.double(), layer.bias.double(), layer.eps)
    )
    for clip in layouts(x):
        assert error(triton_norm(layer, clip), truth) < 2**-11


@in_interpreter
def test_a_part_of_a_model_computes_the_same_with_the_kernels() -> None:
    small = Size(32, 32, None, frames=2, height=3, width=4)
    with torch.no_grad():
        case = part_case(small, triton_norm, "cpu", torch.float32)
        for name in ("NCHW", "NHWC"):
            assert case.errors(case.compute(name))[0] < ROUNDING


def test_models_with_framewise_norms_compute_the_same() -> None:
    models = random_models()
    truth = denoise(models["unet"], 2), decode(models["vae"])
    apply_optimizations(SimpleNamespace(**models), OPTIMIZATIONS, framewise_norm)
    found = denoise(models["unet"], 2), decode(models["vae"])
    for one, other in zip(found, truth, strict=True):
        assert float((one - other).abs().max() / other.abs().max()) < ROUNDING


def test_layers_use_the_norm_that_was_chosen(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[bool] = []

    def noted(norm: nn.GroupNorm, x: Tensor, silu: bool = True) -> Tensor:
        used.append(silu)
        return framewise_norm(norm, x, silu)

    monkeypatch.setattr(group_norm, "NORMS", {**NORMS, "noted": noted})
    monkeypatch.setattr("svd_core.engine.optimizations.kernels.NORMS", group_norm.NORMS)
    pipeline = open_folder(tiny_checkpoint, False, lambda *_: None)
    place(pipeline, ON_CPU)
    truth = denoise(pipeline.unet), decode(pipeline.vae)
    assert not used
    pipeline.kernels = Kernels(norm="noted")
    place(pipeline, ON_CPU)
    for compute, other in zip(
        (lambda: denoise(pipeline.unet), lambda: decode(pipeline.vae)), truth, strict=True
    ):
        used.clear()
        assert float((compute() - other).abs().max() / other.abs().max()) < ROUNDING
        assert len(used) > 10


@pytest.mark.skipif(INTERPRETED, reason="the interpreter is slow")
def test_the_probe_judges_torchs_and_the_framewise_norm_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_norm, "SHAPES", ((32, 2, 3), (32, 3, 4)))
    monkeypatch.setattr(group_norm, "FRAMES", 3)
    now = iter(range(10**6))
    found = Probe(norm_choice(), "cpu", torch.float32, lambda: next(now) * 1e-6).run()
    assert set(found or ()) == {"torch", "framewise"}


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is that process")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is for Linux")
def test_tritons_kernels_in_its_interpreter() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-rN", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="Triton compiles for a GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_tritons_kernels_on_a_card(dtype: torch.dtype) -> None:
    for shape in SHAPES:
        layer, x = (part.cuda() for part in layer_and_clip(*shape, dtype))
        truth = F.silu(
            F.group_norm(x.double(), 32, layer.weight.double(), layer.bias.double(), layer.eps)
        )
        for clip in layouts(x):
            stock = error(NORMS["torch"](layer, clip), truth)
            assert error(triton_norm(layer, clip), truth) <= MAX_ERROR_RATIO * stock
