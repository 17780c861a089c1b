"""Compiled blocks compute the same, and `auto` compiles only what was compiled before."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from svd_core.checkpoints.memory_plan import MemoryPlan
from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.engine.engine import SvdEngine
from svd_core.engine.optimizations.patching import patch, patch_name, unpatch
from svd_core.engine.optimizations.registry import OPTIMIZATIONS
from svd_core.engine.optimizations.torch_compile import CompileCache, CompileKey, compile_blocks
from svd_core.params import VideoParams
from svd_core.types import GenerationResult
from tests.engine.test_speed_modes import PHOTO
from tests.fakes.random_checkpoint import denoise, random_models

PLAN = MemoryPlan(device="cpu", dtype="float32", decode_chunk_size=2)
KIND = CompileKey(
    model="svd-xt", plan=PLAN, size=(1024, 576), num_frames=25, guided=True, speed="exact"
)  # fmt: skip


class Counting:
    """A backend that compiles nothing and counts its runs, each of a graph of a block."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, graph: Any, _: Any) -> Any:
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

    def compile_and_count(unet: Any) -> int:
        calls.append(compile_blocks(unet, backend=backend))
        return calls[-1]

    monkeypatch.setattr("svd_core.engine.pipeline_loader.compile_blocks", compile_and_count)

    notes: list[str] = []

    def make(setting: Any, frames: int) -> GenerationResult:
        ups = AccelerationConfig(compile=setting, folder=tmp_path)
        engine = SvdEngine(str(tiny_checkpoint), acceleration=ups)
        params = VideoParams(seed=1, num_inference_steps=1, num_frames=frames)
        return engine.generate(PHOTO, params, lambda event: notes.append(event.note or ""))

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
