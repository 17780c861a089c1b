"""Every memory plan on simulated GPUs of six sizes: same frames, also after faults in between."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from PIL import Image
from safetensors.torch import save_file

from svd_core.checkpoints.memory_plan import MemoryPlan, OffloadSetting
from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.checkpoints.table import read_json
from svd_core.engine.engine import SvdEngine
from svd_core.engine.optimizations import torch_compile
from svd_core.errors import Cancelled, OutOfMemory
from svd_core.events import Progress, Stage
from svd_core.messages import Message
from svd_core.types import GenerationResult
from tests.fakes.errors import has_code
from tests.fakes.gpu_sizes import (
    PLACES,
    SIZES,
    gpu_device,
    gpu_of,
    levels,
    make,
    pipeline_of,
    placing_runs_out,
    plan_in,
    plan_of_svd_xt,
    running_out,
)
from tests.fakes.tiny_checkpoint import SIZES as FRAME_SIZES
from tests.fakes.tiny_checkpoint import write

SETTINGS: tuple[OffloadSetting, ...] = ("auto", "none", "model", "sequential")
PORTRAIT = Image.effect_noise(FRAME_SIZES[1], 80).convert("RGB")
GB = 10**9


def planned(gigabytes: float, setting: OffloadSetting) -> MemoryPlan:
    return plan_of_svd_xt(gpu_device(gigabytes * GB), None, None, setting)  # type: ignore[arg-type]


def cards(*usual: tuple[int, OffloadSetting]) -> Any:
    """Each size with each setting, all but the `usual` ones marked as slow."""
    found = []
    for setting in SETTINGS:
        for size in SIZES:
            marks = () if (size, setting) in usual else pytest.mark.slow
            found.append(pytest.param(size, setting, id=f"{size} GB, {setting}", marks=marks))
    return pytest.mark.parametrize(("size", "setting"), found)


@pytest.fixture(scope="module")
def turbo(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a UNet that are not those of the checkpoint."""
    path = tmp_path_factory.mktemp("turbo") / "turbo.safetensors"
    unet = UNetSpatioTemporalConditionModel.from_pretrained(tiny_checkpoint / "unet")
    draw = torch.Generator().manual_seed(3)
    weights = {
        name: (weight + 0.05 * torch.randn(weight.shape, generator=draw)).contiguous()
        for name, weight in unet.state_dict().items()
    }
    save_file(weights, path)
    return path


def changed(engine: SvdEngine, portrait: bool = False, **params: Any) -> GenerationResult:
    return make(engine, **params, **({"image": PORTRAIT} if portrait else {}))


Reference = Callable[..., GenerationResult]


@pytest.fixture(scope="module")
def on_cpu(tiny_checkpoint: Path, turbo: Path, one_thread: None) -> Reference:
    """The CPU's clip of `params`; `apart`: frames per separately decoded group."""
    engine = SvdEngine(str(tiny_checkpoint), acceleration=AccelerationConfig(turbo=turbo))
    make(engine)
    assert engine._loaded is not None
    memory = engine._loaded._memory
    usual = memory.current

    @cache
    def reference(apart: int | None = None, **params: Any) -> GenerationResult:
        memory.current = usual
        if apart is not None:
            memory.current = replace(usual, whole_clip=False, decode_chunk_size=apart)
        return changed(engine, **params)

    return reference


@pytest.fixture(scope="module")
def engine_for(tiny_checkpoint: Path, turbo: Path) -> Callable[[int, OffloadSetting], SvdEngine]:
    """An engine for each plan, which all tests share: each has to leave it ready."""

    @cache
    def engine(chosen: MemoryPlan, setting: OffloadSetting) -> SvdEngine:
        return SvdEngine(
            str(tiny_checkpoint), setting, acceleration=AccelerationConfig(turbo=turbo)
        )

    return lambda size, setting: engine(planned(size, setting), setting)


def apart(chosen: MemoryPlan) -> int | None:
    """How many frames the last resort decodes as a clip of its own."""
    return None if chosen.whole_clip else chosen.decode_chunk_size


@cards((8, "auto"))
def test_two_clips_are_those_of_the_cpu(
    engine_for: Callable[..., SvdEngine], on_cpu: Reference, size: int, setting: OffloadSetting
) -> None:
    chosen = planned(size, setting)
    with gpu_of(size):
        engine = engine_for(size, setting)
        first, again = make(engine), make(engine)
        assert plan_in(engine) == chosen
    assert levels(first, again) == 0
    assert levels(first, on_cpu(apart(chosen))) <= 2
    assert first.notes == again.notes
    assert (Message("chunked_decode") in first.notes) != chosen.whole_clip


CHANGES: dict[str, dict[str, Any]] = {
    "fewer frames": {"num_frames": 2},
    "more frames": {"num_frames": 5},
    "no guidance": {"min_guidance_scale": 1.0, "max_guidance_scale": 1.0},
    "much guidance": {"max_guidance_scale": 7.0},
    "fast": {"speed": "fast"},
    "noise": {"noise_aug_strength": 1.0, "fps": 30, "motion_bucket_id": 255},
    "portrait": {"portrait": True},
    "one frame at a time": {"decode_chunk_size": 1},
}


@cards()
def test_what_changes_between_clips_leaves_no_trace(
    engine_for: Callable[..., SvdEngine], on_cpu: Reference, size: int, setting: OffloadSetting
) -> None:
    chosen = planned(size, setting)
    with gpu_of(size):
        engine = engine_for(size, setting)
        first = make(engine)
        found = {name: changed(engine, **change) for name, change in CHANGES.items()}
        assert levels(first, make(engine)) == 0
    for name, clip in found.items():
        change = CHANGES[name]
        groups = change.get("decode_chunk_size", apart(chosen)) if apart(chosen) else None
        assert levels(clip, on_cpu(groups, **change)) <= 2, name


# Stage and least step: a decoder in slices reports only the steps at which one ends.
STOPS = ((Stage.ENCODING, 0), (Stage.DENOISING, 1), (Stage.DENOISING, 2), (Stage.DECODING, 1))


@cards()
def test_a_cancel_in_any_stage_leaves_the_engine_ready(
    engine_for: Callable[..., SvdEngine], size: int, setting: OffloadSetting
) -> None:
    with gpu_of(size):
        engine = engine_for(size, setting)
        first = make(engine)
        for at in STOPS:

            def stop(event: Progress, at: tuple[Stage, int] = at) -> None:
                stage, step = at
                if event.stage is stage and event.step >= step:
                    raise Cancelled

            with pytest.raises(Cancelled):
                make(engine, stop)
        assert levels(first, make(engine)) == 0


@cards()
def test_memory_that_runs_out_once_gives_the_same_clip_and_the_plan_comes_back(
    engine_for: Callable[..., SvdEngine], on_cpu: Reference, size: int, setting: OffloadSetting
) -> None:
    chosen = planned(size, setting)
    smaller = chosen.smaller()
    assert smaller is not None
    with gpu_of(size):
        engine = engine_for(size, setting)
        first = make(engine)
        for place in PLACES:
            with running_out(engine, place):
                second = make(engine)
            assert plan_in(engine) == smaller, place
            assert levels(second, on_cpu(apart(smaller))) <= 2, place
            assert Message("memory_ran_out", plan=smaller.describe()) in second.notes
            assert levels(first, make(engine)) == 0, place
            assert plan_in(engine) == chosen, place


@cards()
def test_turbo_and_back(
    engine_for: Callable[..., SvdEngine], on_cpu: Reference, size: int, setting: OffloadSetting
) -> None:
    with gpu_of(size):
        engine = engine_for(size, setting)
        exact, turbo = make(engine), make(engine, speed="turbo")
        assert levels(exact, make(engine)) == 0
        assert levels(turbo, make(engine, speed="turbo")) == 0
    assert levels(turbo, on_cpu(apart(planned(size, setting)), speed="turbo")) <= 2
    assert levels(turbo, exact) > 2


@pytest.mark.slow
@pytest.mark.parametrize("place", ["UNet", "decoder"])
def test_down_every_plan_and_up_again(
    engine_for: Callable[..., SvdEngine], on_cpu: Reference, place: str
) -> None:
    chosen = planned(24, "auto")
    plans = [chosen]
    while (smaller := plans[-1].smaller()) is not None:
        plans.append(smaller)
    assert [each.offload for each in plans] == ["none", "model", "sequential", "sequential"]
    with gpu_of(24):
        engine = engine_for(24, "auto")
        first = make(engine)
        for failures in range(2, len(plans)):  # once is tested above
            with running_out(engine, place, failures):
                clip = make(engine)
            assert plan_in(engine) == plans[failures]
            assert levels(clip, on_cpu(apart(plans[failures]))) <= 2
            assert levels(first, make(engine)) == 0, "memory is there again"
            assert plan_in(engine) == chosen


@pytest.mark.slow
def test_memory_that_runs_out_while_a_smaller_plan_is_placed(
    engine_for: Callable[..., SvdEngine],
) -> None:
    with gpu_of(24):
        engine = engine_for(24, "auto")
        first = make(engine)
        with running_out(engine, "UNet"), placing_runs_out(1):
            clip = make(engine)
        assert plan_in(engine).offload == "sequential"
        assert levels(first, clip) <= 2
        assert levels(first, make(engine)) == 0


@pytest.mark.slow
def test_memory_that_no_plan_has_is_told_in_numbers_and_the_next_clip_is_made(
    engine_for: Callable[..., SvdEngine],
) -> None:
    with gpu_of(24) as gpu:
        engine = engine_for(24, "auto")
        first = make(engine)
        gpu.free_bytes = 2 * GB
        told = has_code("gpu_too_small", frames=3, width=64, height=32, free="2.0")
        with running_out(engine, "image encoder", 9), pytest.raises(OutOfMemory, check=told):
            make(engine)
        gpu.free_bytes = 24 * GB
        assert levels(first, make(engine)) == 0


@pytest.mark.slow
def test_cudnn_without_room_for_a_workspace_is_out_of_memory(
    engine_for: Callable[..., SvdEngine],
) -> None:
    error = RuntimeError("GET was unable to find an engine to execute this computation")
    with gpu_of(24):
        engine = engine_for(24, "auto")
        make(engine)
        with running_out(engine, "image encoder", error=error):
            assert make(engine).notes[-1].code == "memory_ran_out"
        make(engine)


@pytest.mark.slow
def test_a_neighbour_that_takes_memory_and_leaves(engine_for: Callable[..., SvdEngine]) -> None:
    """While it is there the plan stays small, and no clip has to fail first to find that out."""
    with gpu_of(24) as gpu:
        engine = engine_for(24, "auto")
        make(engine)
        gpu.free_bytes = 7 * GB
        with running_out(engine, "image encoder", 2):
            make(engine)
        assert plan_in(engine).offload == "sequential"
        assert make(engine).notes == ()
        assert plan_in(engine).offload == "sequential"
        gpu.free_bytes = 12 * GB
        make(engine)
        assert plan_in(engine) == planned(12, "auto")
        gpu.free_bytes = 24 * GB
        make(engine)
        assert plan_in(engine) == planned(24, "auto")


def test_a_setting_that_does_not_fit_is_told_at_the_start(
    tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with gpu_of(8):
        engine = SvdEngine(str(tiny_checkpoint), "none")
        engine.load(lambda _: None)
    assert plan_in(engine) == planned(8, "auto")
    assert engine.status.device.endswith(", model offload")
    notice = engine.status.notice or ""
    assert notice.startswith("SVD_OFFLOAD=none needs more than the 8.0 GB")
    assert notice in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("offload", ["none", "model"])
def test_compiled_blocks_work_under_every_offload_that_allows_them(
    tiny_checkpoint: Path,
    on_cpu: Reference,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    offload: str,
) -> None:
    """With Dynamo's own backend, and offload from the CPU to itself: no GPU can be pretended."""
    monkeypatch.setattr(torch_compile, "can_compile", lambda: True)
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **k: real(f, **{**k, "backend": "eager"}))
    engine = SvdEngine(
        str(tiny_checkpoint),
        acceleration=AccelerationConfig(compile="on", folder=tmp_path / "compiled"),
    )
    try:
        first = make(engine)
        if offload == "model":
            pipeline_of(engine).enable_model_cpu_offload(device="cpu")
        assert levels(first, make(engine)) == 0
        make(engine, num_frames=2)
        assert levels(first, make(engine)) == 0
    finally:
        torch._dynamo.reset()
    assert levels(first, on_cpu()) <= 1


@pytest.mark.parametrize(
    ("file", "value"),
    [("vae/config.json", "force_upcast"), ("svd.json", "single_precision_unet")],
)
@pytest.mark.parametrize(
    "size", [24, *(pytest.param(size, marks=pytest.mark.slow) for size in (8, 6))]
)
def test_precisions_that_a_checkpoint_asks_for(
    tiny_checkpoint: Path, on_cpu: Reference, tmp_path: Path, file: str, value: str, size: int
) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "other")
    dials = read_json(folder / file)
    write(folder / file, dials | {value: not dials.get(value, False)})
    with gpu_of(size):
        engine = SvdEngine(str(folder))
        found = make(engine)
    assert levels(found, on_cpu(apart(planned(size, "auto")))) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("size", [8, *(pytest.param(n, marks=pytest.mark.slow) for n in (24, 6))])
def test_weights_wait_where_the_plan_says(engine_for: Callable[..., SvdEngine], size: int) -> None:
    """While the UNet works, no other model of an offloaded pipeline is on the GPU."""
    chosen = planned(size, "auto")
    seen: list[set[str]] = []
    with gpu_of(size):
        engine = engine_for(size, "auto")
        make(engine)
        pipeline = pipeline_of(engine)

        def look(*_: Any) -> None:
            parts = ("image_encoder", "unet", "vae")
            weights = {part: next(getattr(pipeline, part).parameters()) for part in parts}
            seen.append({part for part, weight in weights.items() if weight.is_cuda})

        hook = pipeline.unet.mid_block.register_forward_pre_hook(look)
        make(engine)
        hook.remove()
    there = {"none": {"image_encoder", "unet", "vae"}, "model": {"unet"}, "sequential": {"unet"}}
    assert seen
    assert all(each == there[chosen.offload] for each in seen)
