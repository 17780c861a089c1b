"""Compiled blocks compute the same, and `auto` compiles only what was compiled before."""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from svd_core.checkpoints.memory_plan import MemoryPlan
from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.engine.engine import SvdEngine
from svd_core.engine.optimizations import torch_compile
from svd_core.engine.optimizations.group_norm import torch_norm, triton_norm
from svd_core.engine.optimizations.guidance import Guidance
from svd_core.engine.optimizations.kernels import Layout
from svd_core.engine.optimizations.patching import patch, patch_name, unpatch
from svd_core.engine.optimizations.registry import OPTIMIZATIONS, rewrites
from svd_core.engine.optimizations.torch_compile import CompileCache, CompileKey, compile_blocks
from svd_core.params import VideoParams
from svd_core.types import GenerationResult
from tests.engine.test_speed_modes import PHOTO
from tests.fakes.random_checkpoint import decode, denoise, random_models

PLAN = MemoryPlan(device="cpu", dtype="float32", decode_chunk_size=2)
KIND = CompileKey(
    model="svd-xt", plan=PLAN, size=(1024, 576), num_frames=25, guided=True, speed="exact"
)  # fmt: skip

ON_GPU = [name for name, each in OPTIMIZATIONS.items() if each.on_cuda]


class Counting:
    """A backend that compiles nothing and counts its runs, each of a graph of a block."""

    def __init__(self, graphs: list[Any] | None = None) -> None:
        self.runs = 0
        self.graphs = [] if graphs is None else graphs

    def __call__(self, graph: Any, _: Any) -> Any:
        self.graphs.append(graph)

        def run(*inputs: Any) -> Any:
            self.runs += 1
            return graph(*inputs)

        return run


def test_compiled_blocks_change_rounding_only_and_can_be_taken_off() -> None:
    unet = random_models()["unet"]
    patch(unet, [(name, exact.rewrite) for name, exact in OPTIMIZATIONS.items()])
    usual = denoise(unet, halves=2)
    backend = Counting()
    blocks = compile_blocks(unet, backend=backend, strict=True)
    found = denoise(unet, halves=2)
    assert backend.runs >= blocks > 4
    assert (found - usual).abs().max() <= 3e-6 * usual.abs().max()
    assert compile_blocks(unet, backend=backend) == 0  # once is enough
    unpatch(unet)
    assert all(patch_name(layer) is None for layer in unet.modules())


@pytest.mark.slow
def test_blocks_of_the_decoder_are_compiled_too() -> None:
    models = random_models()
    vae = models["vae"]
    patch(vae, rewrites(ON_GPU))
    before = decode(vae)
    backend = Counting()
    assert compile_blocks(models["unet"], vae.decoder, backend=backend, strict=True) > 8
    assert (decode(vae) - before).abs().max() <= 3e-6 * before.abs().max()
    assert backend.runs > 4


@pytest.mark.slow
def test_steps_with_and_without_guidance_share_their_code() -> None:
    """So a clip of either is compiled once, and `fast`, which has both."""
    unet = random_models()["unet"]
    unet.forward = Guidance(unet.forward)
    patch(unet, rewrites(ON_GPU))
    before = [denoise(unet, halves) for halves in (2, 1)]
    pipeline = SimpleNamespace(unet=unet, vae=None)
    graphs: list[Any] = []
    backend = Counting(graphs)
    with pytest.MonkeyPatch.context() as other:
        other.setattr(torch_compile, "compile_blocks", partial(compile_blocks, backend=backend))
        assert torch_compile.compile_pipeline(pipeline, PLAN) > 4
    guided = denoise(unet, halves=2)
    compiled = len(graphs)
    assert compiled > 0
    unguided = denoise(unet, halves=1)
    assert len(graphs) == compiled
    for found, expected in zip((guided, unguided), before, strict=True):
        assert (found - expected).abs().max() <= 3e-6 * expected.abs().max()


@pytest.mark.slow
def test_compiled_blocks_leave_norms_to_the_compiler() -> None:
    """With any layout, and without Triton here."""
    unet = random_models()["unet"]
    patch(unet, rewrites(ON_GPU))
    before = denoise(unet)
    unpatch(unet)
    patch(unet, rewrites(ON_GPU, triton_norm))
    Layout(channels_last=True).arrange(unet)
    compile_blocks(unet, backend=Counting(), strict=True)
    found: list[Any] = []
    for block in unet.modules():
        if patch_name(block) == "compiled":
            block.register_forward_hook(lambda _, __, out: found.append(out))
    unet.conv_norm_out.forward = lambda x: torch_norm(unet.conv_norm_out, x, silu=False)
    # torch's GroupNorm on a CPU is less exact with channels innermost.
    assert (denoise(unet) - before).abs().max() <= 1e-3 * before.abs().max()
    assert found


@pytest.mark.parametrize(
    "change",
    [{"guided": False}, {"speed": "fast"}, {"plan": replace(PLAN, split_guidance=True)}],
    ids=["guided", "speed", "plan"],
)
def test_what_shares_code_is_compiled_once(tmp_path: Path, change: dict[str, Any]) -> None:
    config = AccelerationConfig(compile="auto", folder=tmp_path)
    CompileCache(config).mark_cached(KIND)
    assert CompileCache(config).is_wanted(replace(KIND, **change))
    assert not CompileCache(config).is_wanted(replace(KIND, speed="turbo"))
    assert not CompileCache(config).is_wanted(replace(KIND, model="another"))


def test_each_card_has_its_own_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = {"cuda:0": "NVIDIA L4", "cuda:1": "NVIDIA H100"}
    monkeypatch.setattr(torch.cuda, "get_device_name", names.get)
    plan = MemoryPlan(device="cuda", dtype="float16", decode_chunk_size=2)
    one, other = (replace(KIND, plan=replace(plan, index=index)) for index in (0, 1))
    cache = CompileCache(AccelerationConfig(compile="auto", folder=tmp_path))
    cache.mark_cached(one)
    assert cache.is_wanted(one)
    assert not cache.is_wanted(other)


@pytest.mark.parametrize(("setting", "first"), [("off", False), ("auto", False), ("on", True)])
def test_who_wants_to_pay_for_compiling_says_so(tmp_path: Path, setting: Any, first: bool) -> None:
    asked = CompileCache(AccelerationConfig(compile=setting, folder=tmp_path / "compiled"))
    assert asked.is_wanted(KIND) == first
    if first:
        asked.mark_cached(KIND)
    later = CompileCache(AccelerationConfig(compile="auto", folder=tmp_path / "compiled"))
    assert later.is_wanted(KIND) == first  # what was paid for is used
    assert not later.is_wanted(replace(KIND, num_frames=14))
    assert not asked.is_wanted(replace(KIND, plan=replace(PLAN, offload="sequential")))


def test_a_mark_that_cannot_be_written_costs_no_clip(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    asked = CompileCache(AccelerationConfig(compile="on", folder=tmp_path / "file"))
    asked.mark_cached(KIND)
    assert not asked.is_cached(KIND)


def test_without_a_folder_or_a_compiler_nothing_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert not CompileCache(AccelerationConfig(compile="on")).is_wanted(KIND)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with caplog.at_level(logging.WARNING):
        assert not CompileCache(AccelerationConfig(compile="on", folder=tmp_path)).is_wanted(KIND)
    assert "no effect" in caplog.text


@pytest.mark.slow
def test_the_engine_compiles_what_it_is_told_to_and_remembers(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    backend = Counting()

    def compile_and_count(*models: Any) -> int:
        calls.append(compile_blocks(*models, backend=backend))
        return calls[-1]

    monkeypatch.setattr(torch_compile, "compile_blocks", compile_and_count)

    notes: list[str] = []

    def make(setting: Any, frames: int) -> GenerationResult:
        ups = AccelerationConfig(compile=setting, folder=tmp_path)
        engine = SvdEngine(str(tiny_checkpoint), acceleration=ups)
        params = VideoParams(seed=1, num_inference_steps=1, num_frames=frames)
        before = len(calls)
        found = engine.generate(PHOTO, params, lambda event: notes.append(event.note or ""))
        assert engine.status.device.endswith(", compiled") == (len(calls) > before)
        return found

    usual = make("auto", 2).frames
    assert calls == []
    made = make("on", 2).frames
    assert len(calls) == 1
    assert backend.runs >= calls[0] > 4
    assert abs(made.astype(int) - usual.astype(int)).max() <= 1
    assert sum("takes minutes" in note for note in notes) == 1
    make("auto", 2)
    assert sum("takes minutes" in note for note in notes) == 1
    assert len(calls) == 2
    make("auto", 3)
    assert len(calls) == 2
