"""The ways that only a GPU is taken, with a GPU that is pretended: see
tests/fakes/pretend_cuda.py."""

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.overrides import TorchFunctionMode

from svd_core.benchmarks import random_models
from svd_core.benchmarks.vs_diffusers import contest, report, variants
from svd_core.benchmarks.vs_diffusers.parity import INPUT_TOLERANCE, Parity
from svd_core.checkpoints.memory_plan import Device
from svd_core.engine import pipeline_loader, preview, sampling
from svd_core.engine.engine import SvdEngine
from svd_core.engine.optimizations import transformer, vae_decode
from svd_core.engine.preview import LatentPreview
from svd_core.errors import Cancelled
from svd_core.events import OnProgress, Progress, Stage
from svd_core.params import VideoParams
from svd_core.types import GenerationResult
from tests.fakes.job_events import eventually
from tests.fakes.pretend_cuda import CPU, CUDA, PretendCuda, pretend_cuda
from tests.fakes.tiny_checkpoint import PHOTO

GPU = Device(kind="cuda", name="None at all", total_bytes=80 << 30, free_bytes=80 << 30)

STEPS = 2


@dataclass(frozen=True)
class Made:
    """A clip, and the same again after one that was cancelled. `brought`, `fetched`: bytes that the
    second moved; `waits`: from each step to the next; `weights`: bytes of each part."""

    first: GenerationResult
    again: GenerationResult
    brought: int
    fetched: int
    waits: list[int]
    weights: dict[str, int]


Making = Callable[[str], Made]
"""By offload; each is made once."""


def make(
    engine: SvdEngine, on_progress: OnProgress = lambda _: None, **params: Any
) -> GenerationResult:
    asked = VideoParams(**{"seed": 1, "num_inference_steps": STEPS, **params})
    return engine.generate(PHOTO, asked, on_progress)


def levels(one: GenerationResult, other: GenerationResult) -> int:
    """Largest difference of two pixels, of 255."""
    return int(np.abs(one.frames.astype(int) - other.frames).max())


@contextmanager
def a_gpu() -> Iterator[PretendCuda]:
    with pytest.MonkeyPatch.context() as patch, pretend_cuda() as gpu:
        patch.setattr(pipeline_loader, "find_device", lambda: GPU)
        yield gpu


@pytest.fixture(scope="module")
def on_cpu(tiny_checkpoint: Path) -> Callable[[str], GenerationResult]:
    engine = SvdEngine(str(tiny_checkpoint), "none")
    return cache(lambda speed: make(engine, speed=speed))


@pytest.fixture(scope="module")
def making(tiny_checkpoint: Path) -> Making:
    return cache(lambda offload: made(tiny_checkpoint, offload))


def made(folder: Path, offload: Any) -> Made:
    waited = []

    def stop(event: Progress) -> None:
        if event.step == 1:
            raise Cancelled

    def note(event: Progress) -> None:
        if event.stage is Stage.DENOISING:
            waited.append(gpu.waits)

    with a_gpu() as gpu:
        engine = SvdEngine(str(folder), offload)
        first = make(engine)
        with pytest.raises(Cancelled):
            make(engine, stop)
        brought, fetched = gpu.brought, gpu.fetched
        again = make(engine, note)
        brought, fetched = gpu.brought - brought, gpu.fetched - fetched
        loaded = engine._loaded
        assert loaded is not None
        weights = {
            part: nbytes(getattr(loaded._pipeline, part)) for part in pipeline_loader.CLASSES
        }
    return Made(first, again, brought, fetched, np.diff(waited).tolist(), weights)


def nbytes(model: torch.nn.Module) -> int:
    return sum(part.nbytes for part in [*model.parameters(), *model.buffers()])


def test_a_gpu_is_not_slowed_down_by_progress_within_a_step(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hooks on each layer would take longer than the processor takes to launch it."""
    hooked = []

    def note(event: Progress) -> None:
        if event.stage is Stage.DENOISING:
            hooked.append(sum(map(len, (each._forward_hooks for each in layers()))))

    def layers() -> Iterator[torch.nn.Module]:
        assert engine._loaded is not None
        return engine._loaded._pipeline.unet.modules()

    with a_gpu():
        engine = SvdEngine(str(tiny_checkpoint), "none")
        make(engine, note)
    assert hooked == [0] * (STEPS + 1)


def test_what_is_pretended() -> None:
    with pretend_cuda() as gpu:
        here = torch.ones(3)
        there = here.to("cuda")
        assert (here.device, there.device, (there + 1).device) == (CPU, CUDA, CUDA)
        assert there.is_cuda
        assert not here.is_cuda
        assert torch.zeros(2, device=CUDA).is_cuda
        both = [here, there]
        for mixed in (lambda: here + there, lambda: there == here, lambda: torch.cat(both)):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        layer = torch.nn.Linear(3, 1).to("cuda")
        assert layer(there).is_cuda
        with pytest.raises(RuntimeError, match="same device, in linear"):
            layer(here)
        assert (gpu.brought, gpu.fetched, gpu.waits) == (12 + 16, 0, 0)
        assert there.cpu().device == CPU
        assert float(there.sum()) == 3
        assert (gpu.fetched, gpu.waits) == (12, 2)
    assert not there.cpu().is_cuda


@pytest.mark.parametrize("offload", ["none", "model", "sequential"])
def test_wherever_weights_wait_the_frames_are_the_same(
    making: Making, on_cpu: Callable[[str], GenerationResult], offload: str
) -> None:
    found = making(offload)
    assert levels(found.first, found.again) == 0
    assert levels(found.first, on_cpu("exact")) <= 2  # half precision


def test_fast_runs_there_too(
    tiny_checkpoint: Path, on_cpu: Callable[[str], GenerationResult]
) -> None:
    with a_gpu():
        clip = make(SvdEngine(str(tiny_checkpoint), "model"), speed="fast")
    assert levels(clip, on_cpu("fast")) <= 2


def test_what_is_offloaded_comes_when_it_is_used_and_nothing_goes_back(making: Making) -> None:
    """The VAE twice: it encodes before all others, and decodes after them."""
    stays, model, blocks = making("none"), making("model"), making("sequential")
    weights = stays.weights
    assert model.brought - stays.brought == sum(weights.values()) + weights["vae"]
    others = sum(weights.values()) + weights["vae"] - weights["unet"]
    of_unet = blocks.brought - stays.brought - others
    # What belongs to no block comes once. There are a few bytes between the weights of a block.
    assert of_unet == pytest.approx(STEPS * weights["unet"], rel=0.15)
    assert stays.fetched == model.fetched == blocks.fetched
    assert blocks.waits == stays.waits  # copies go on beside the steps


@pytest.mark.slow
def test_layers_that_wait_come_no_oftener_for_work_in_slices(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for each frame that is decoded, nor for each slice of a feed-forward."""
    moved = []
    for hidden, rows, at_once in ((2**27, 2**28, 3), (2**12, 2**12, 1)):
        monkeypatch.setattr(transformer, "CHUNK_SIZE", hidden)
        monkeypatch.setattr(vae_decode, "ROWS_BYTES", rows)
        with a_gpu() as gpu:
            engine = SvdEngine(str(tiny_checkpoint), "sequential")
            make(engine)
            before = gpu.brought
            make(engine, decode_chunk_size=at_once)
            moved.append(gpu.brought - before)
    whole, sliced = moved
    assert sliced == pytest.approx(whole, rel=0.001)


class OtherNumbersInHalf(TorchFunctionMode):
    """Like torch before 2.13, which draws other numbers in half precision than in single."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.randn and kwargs.get("dtype") in (torch.float16, torch.bfloat16):
            return -func(*args, **kwargs)
        return func(*args, **kwargs)


@pytest.mark.parametrize("offload", ["none", "model"])
def test_a_seed_is_the_same_video_for_every_torch(
    tiny_checkpoint: Path, making: Making, offload: Any
) -> None:
    with OtherNumbersInHalf(), a_gpu():
        clip = make(SvdEngine(str(tiny_checkpoint), offload))
    assert levels(clip, making(offload).first) == 0


def test_noise_is_what_the_pipeline_draws_itself_in_single_precision(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = SvdEngine(str(tiny_checkpoint), "none")
    for frames, size in ((3, (64, 32)), (5, (32, 64))):
        photo = PHOTO.resize(size)
        asked = VideoParams(seed=2**32 - 1, num_inference_steps=1, num_frames=frames)
        ours = engine.generate(photo, asked, lambda _: None)
        with monkeypatch.context() as patch:
            patch.setattr(sampling, "_initial_noise", lambda *_: None)
            assert levels(ours, engine.generate(photo, asked, lambda _: None)) == 0


def test_a_step_waits_for_the_gpu_only_when_it_is_done(making: Making) -> None:
    """To see whether its numbers are finite. Nothing waits for a preview."""
    assert making("none").waits == [1] * STEPS


@pytest.mark.parametrize("behind", [0, 5])
def test_previews_are_those_of_the_cpu_and_nothing_waits_for_them(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, behind: int
) -> None:
    """Each goes with a report after its step, also while the clip is decoded."""
    drawn = threading.Semaphore(0)
    threads: list[str] = []
    encode = preview.encode_webp

    def encode_and_note(*given: Any) -> bytes:
        found = encode(*given)
        threads.append(threading.current_thread().name)
        return found

    monkeypatch.setattr(preview, "encode_webp", encode_and_note)
    finished = LatentPreview._draw

    def draw(*given: Any) -> bytes:
        found = finished(*given)
        drawn.release()
        return found

    monkeypatch.setattr(LatentPreview, "_draw", draw)

    def clip(engine: SvdEngine, gpu: PretendCuda | None) -> tuple[list[bytes], list[int]]:
        found: list[bytes] = []
        waits: list[int] = []

        def on_progress(event: Progress) -> None:
            if event.preview is not None:
                found.append(event.preview)
            if event.stage is Stage.DENOISING:
                waits.append(gpu.waits if gpu else 0)
            if gpu and event.stage is Stage.DENOISING and event.step > 0:
                assert drawn.acquire(timeout=60)  # the GPU goes on; this test does not

        make(engine, on_progress)
        return found, np.diff(waits).tolist()

    there, _ = clip(SvdEngine(str(tiny_checkpoint), "none"), None)
    assert len(there) == STEPS
    assert all(name == "MainThread" for name in threads)
    threads.clear()
    for _ in range(STEPS):
        assert drawn.acquire(timeout=1)
    with a_gpu() as gpu:
        gpu.behind = behind
        found, waits = clip(SvdEngine(str(tiny_checkpoint), "none"), gpu)
    assert waits == [1] * STEPS
    assert all(name.startswith("preview") for name in threads)
    assert len(found) == STEPS
    for one, other in zip(found, there, strict=True):
        one_frames, other_frames = (
            np.asarray(Image.open(io.BytesIO(each)).convert("RGB"), int) for each in (one, other)
        )
        assert np.abs(one_frames - other_frames).mean() < 3


def test_a_clip_that_is_cancelled_ends_the_thread_of_its_previews(tiny_checkpoint: Path) -> None:
    def stop(event: Progress) -> None:
        if event.step == 1:
            raise Cancelled

    with a_gpu() as gpu:
        gpu.behind = 10**9  # the copies never arrive
        engine = SvdEngine(str(tiny_checkpoint), "none")
        with pytest.raises(Cancelled):
            make(engine, stop)
        eventually(lambda: not any(t.name.startswith("preview") for t in threading.enumerate()))


@pytest.mark.slow
def test_a_contest_there_asks_everybody_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours computes as stock does here, but in its own clip it asks otherwise in the last digit."""
    verdicts: list[Parity] = []
    judge = contest.check_parity

    def noted(*given: Any) -> Parity:
        verdicts.append(judge(*given))
        return verdicts[0]

    monkeypatch.setattr(contest, "check_parity", noted)
    monkeypatch.setattr(contest, "find_device", lambda: GPU)
    monkeypatch.setattr(
        variants, "optimizations_for", lambda _: ["silent"]
    )  # nothing is silent in TINY
    monkeypatch.setattr(random_models, "TINY", replace(random_models.TINY, sizes=((64, 64),)))
    # A CPU would take minutes for the product of a GPU.
    monkeypatch.setitem(report.MATRIX_SIDE, "cuda", 64)
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    for name in ("memory_allocated", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: 0)
    with pretend_cuda():
        small = ["--model", "tiny", "--rounds", "1", "--steps", "2", "--frames", "2"]
        assert contest.main([*small, "--no-compile"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["device"] == GPU.name
    assert 0 < verdicts[0].input_difference["ours"] <= INPUT_TOLERANCE
    assert verdicts[0].output_difference == {"stock": 0, "ours": 0}
