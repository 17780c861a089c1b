"""The engine with a tiny random checkpoint: what reaches the model, what it gives and survives.

Numbers of defects are those of the list of faults seen in other SVD programs.
"""

import copy
import io
import itertools
import shutil
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image

from svd_core.checkpoints import eta
from svd_core.checkpoints.defaults import with_defaults
from svd_core.checkpoints.memory_plan import Device, MemoryPlan
from svd_core.checkpoints.table import CHECKPOINTS, find_checkpoint, read_json
from svd_core.engine import loaded_model, pipeline_loader
from svd_core.engine.engine import SvdEngine
from svd_core.engine.optimizations.patching import unpatch
from svd_core.errors import (
    Cancelled,
    GenerationFailed,
    InvalidImage,
    InvalidRequest,
    InvalidSettings,
    ModelBroken,
    ModelGated,
    ModelUnreachable,
    OutOfMemory,
)
from svd_core.events import Progress, Stage
from svd_core.messages import Message
from svd_core.params import VideoParams
from svd_core.types import GenerationResult
from tests.fakes.errors import has_code
from tests.fakes.hub_server import COMMIT, OPEN, SVD_XT, FakeHub
from tests.fakes.tiny_checkpoint import NUM_FRAMES, PHOTO, write


class Events(list[Progress]):
    """Remembers every event; `stop` says at which one to cancel."""

    def __init__(self, stop: Callable[[Progress], bool] = lambda event: False) -> None:
        super().__init__()
        self.stop = stop

    def __call__(self, event: Progress) -> None:
        self.append(event)
        if self.stop(event):
            raise Cancelled


def steps_of(events: Events) -> list[int]:
    """Steps done, each once: a slow step reports several times."""
    steps = [event.step for event in events if event.stage is Stage.DENOISING]
    return [step for step, _ in itertools.groupby(steps)]


@pytest.fixture(scope="module")
def shared(tiny_checkpoint: Path, one_thread: None) -> SvdEngine:
    """Loaded once. Tests that change it take `engine`."""
    engine = SvdEngine(str(tiny_checkpoint))
    engine.load(Events())
    return engine


@pytest.fixture
def engine(tiny_checkpoint: Path, one_thread: None) -> SvdEngine:
    engine = SvdEngine(str(tiny_checkpoint))
    engine.load(Events())
    return engine


def pipeline_of(engine: SvdEngine) -> Any:
    assert engine._loaded is not None
    return engine._loaded._pipeline


def make(engine: SvdEngine, *, image: Image.Image = PHOTO, **params: Any) -> GenerationResult:
    return engine.generate(image, VideoParams(**{"seed": 1, **params}), Events())


@pytest.fixture
def asked(shared: SvdEngine, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the pipeline was last called with."""
    seen: dict[str, Any] = {}
    kind = type(pipeline_of(shared))
    original = kind.__call__

    def call(self: Any, image: Image.Image, **options: Any) -> Any:
        seen.update(options, image=image)
        return original(self, image, **options)

    monkeypatch.setattr(kind, "__call__", call)
    return seen


# --- what reaches the model


@pytest.mark.parametrize("fps", [5, 7, 24, 30])
def test_fps_reaches_the_model(shared: SvdEngine, asked: dict[str, Any], fps: int) -> None:
    """Defect 1: an fps setting that only changes the playback."""
    clip = make(shared, fps=fps)
    assert asked["fps"] == fps
    assert clip.notes == ()


def test_fps_changes_the_frames(shared: SvdEngine) -> None:
    """Defect 1, seen from outside."""
    assert not np.array_equal(make(shared, fps=6).frames, make(shared, fps=30).frames)


@pytest.mark.parametrize(("fps", "held"), [(1, 5), (4, 5), (31, 30), (100, 30)])
def test_fps_beyond_the_trained_is_held_and_told(
    shared: SvdEngine, asked: dict[str, Any], fps: int, held: int
) -> None:
    clip = make(shared, fps=fps)
    assert asked["fps"] == held
    assert clip.params.fps == fps
    assert clip.params.rate == fps
    (note,) = clip.notes
    assert f"made for {held}" in note
    assert f"plays at {fps}" in note


def test_playback_fps_does_not_reach_the_model(shared: SvdEngine) -> None:
    plain, fast = make(shared, fps=7), make(shared, fps=7, playback_fps=60)
    assert np.array_equal(plain.frames, fast.frames)
    assert (plain.params.rate, fast.params.rate) == (7, 60)
    assert fast.notes == ()


@pytest.mark.parametrize("strength", [0.0, 0.02, 0.5])
def test_noise_reaches_the_model(shared: SvdEngine, asked: dict[str, Any], strength: float) -> None:
    """Defect 2: 0.1 for all videos, regardless of the setting."""
    make(shared, noise_aug_strength=strength)
    assert asked["noise_aug_strength"] == strength


def test_noise_is_the_documented_default(shared: SvdEngine, asked: dict[str, Any]) -> None:
    """Defect 2."""
    make(shared)
    assert asked["noise_aug_strength"] == 0.02


def test_motion_reaches_the_model(shared: SvdEngine, asked: dict[str, Any]) -> None:
    still, moving = make(shared, motion_bucket_id=1), make(shared, motion_bucket_id=255)
    assert asked["motion_bucket_id"] == 255
    assert not np.array_equal(still.frames, moving.frames)


def test_the_model_and_the_decoder_see_the_same_picture(
    shared: SvdEngine, asked: dict[str, Any]
) -> None:
    """Defect 4: one branch squeezed, the other cropped. The size is the photo's, so nothing is."""
    tall = PHOTO.rotate(90, expand=True)
    clip = make(shared, image=tall)
    assert (asked["width"], asked["height"]) == asked["image"].size == (32, 64)
    assert clip.frames.shape == (NUM_FRAMES, 64, 32, 3)


def test_a_picture_that_is_not_framed_is_refused(shared: SvdEngine) -> None:
    with pytest.raises(InvalidImage, check=has_code("image_not_framed", width=60, height=32)):
        make(shared, image=PHOTO.resize((60, 32)))


def test_the_model_is_asked_for_its_own_number_of_frames(
    shared: SvdEngine, asked: dict[str, Any]
) -> None:
    """Defect 14: a 14-frame model asked for 25."""
    clip = make(shared)
    assert asked["num_frames"] == NUM_FRAMES == len(clip.frames)
    assert clip.notes == ()


def test_more_frames_than_trained_are_told(shared: SvdEngine, asked: dict[str, Any]) -> None:
    """Defect 14, when the user wants it so. Defect 15: a longer video pasted from several runs."""
    clip = make(shared, num_frames=NUM_FRAMES + 1)
    assert len(clip.frames) == NUM_FRAMES + 1 == asked["num_frames"]
    assert f"trained on {NUM_FRAMES} frames" in clip.notes[0]


def test_no_more_frames_are_decoded_at_once_than_planned(shared: SvdEngine) -> None:
    """Defect 19: slicing and tiling do not exist here, the chunk alone bounds the memory."""
    chunks = []
    last = pipeline_of(shared).vae.decoder.conv_out
    hook = last.register_forward_hook(lambda _, __, pixels: chunks.append(len(pixels)))
    make(shared, decode_chunk_size=2, num_frames=5)
    make(shared)
    hook.remove()
    assert chunks == [2, 2, 1, NUM_FRAMES]


def test_frames_do_not_depend_on_how_many_are_decoded_at_once(shared: SvdEngine) -> None:
    at_once = make(shared, num_frames=5, decode_chunk_size=5).frames.astype(int)
    for chunk in (1, 2, 4):
        sliced = make(shared, num_frames=5, decode_chunk_size=chunk).frames
        assert np.abs(sliced - at_once).max() <= 1  # rounding between two of 255


def test_every_setting_is_passed_and_reported(shared: SvdEngine, asked: dict[str, Any]) -> None:
    clip = make(
        shared, num_inference_steps=3, min_guidance_scale=1.5, max_guidance_scale=2.5, num_frames=2
    )
    passed = {name: asked[name] for name in VideoParams().to_mapping() if name in asked}
    reported = clip.params.to_mapping()
    assert passed == {name: reported[name] for name in passed}
    assert {"num_inference_steps", "min_guidance_scale", "decode_chunk_size"} <= passed.keys()
    assert None not in reported.values()


# --- what comes out


def test_frames_are_those_of_diffusers(shared: SvdEngine) -> None:
    """What the stock pipeline gives as PIL images, but for rounding between two of 255."""
    clip = make(shared, num_frames=5, decode_chunk_size=2)
    pipeline = copy.deepcopy(pipeline_of(shared).components)
    for model in (pipeline["unet"], pipeline["vae"]):
        unpatch(model)
    del pipeline["unet"].forward
    stock = StableVideoDiffusionPipeline(**pipeline)(
        PHOTO,
        width=64,
        height=32,
        num_frames=5,
        num_inference_steps=2,
        fps=7,
        generator=torch.Generator().manual_seed(1),
    ).frames[0]
    assert clip.frames.dtype == np.uint8
    pictures = np.stack([np.asarray(frame) for frame in stock]).astype(int)
    assert np.abs(clip.frames - pictures).max() <= 1
    assert clip.frames.std() > 5


def test_the_seed_alone_decides(shared: SvdEngine) -> None:
    first, second, other = make(shared), make(shared), make(shared, seed=2)
    assert np.array_equal(first.frames, second.frames)
    assert not np.array_equal(first.frames, other.frames)


def test_two_engines_agree(shared: SvdEngine, engine: SvdEngine) -> None:
    assert np.array_equal(make(shared).frames, make(engine).frames)


def test_the_largest_seed_is_its_own(shared: SvdEngine) -> None:
    largest = make(shared, seed=2**32 - 1).frames
    assert not np.array_equal(largest, make(shared, seed=2**32 - 2).frames)


def test_the_process_wide_generator_is_left_alone(shared: SvdEngine) -> None:
    """Defect 6: two users sharing one generator."""
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = make(shared)
    assert torch.equal(torch.rand(1), expected)
    torch.manual_seed(8)
    assert np.array_equal(first.frames, make(shared).frames)


def test_nothing_is_printed_or_warned(shared: SvdEngine, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "__array__ implementation")
        make(shared, fps=60, num_frames=5)
    assert capfd.readouterr() == ("", "")


# --- progress


def test_events_tell_the_whole_story(shared: SvdEngine) -> None:
    events = Events()
    started = time.monotonic()
    shared.generate(PHOTO, VideoParams(seed=1, decode_chunk_size=2), events)
    took = time.monotonic() - started
    counts = itertools.groupby(events, key=lambda e: (e.stage, e.step, e.total))
    assert [count for count, _ in counts] == [
        (Stage.ENCODING, 0, 0),
        (Stage.DENOISING, 0, 2),
        (Stage.DENOISING, 1, 2),
        (Stage.DENOISING, 2, 2),
        (Stage.DECODING, 0, 3),
        (Stage.DECODING, 1, 3),
        (Stage.DECODING, 2, 3),
        (Stage.DECODING, 3, 3),
    ]
    assert [e.elapsed_s for e in events] == sorted(e.elapsed_s for e in events)
    assert events[-1].elapsed_s <= took
    assert all(e.remaining_s is not None for e in events if e.step or e.stage is Stage.DECODING)
    assert events[-1].remaining_s == 0


def test_a_long_step_reports_on_a_cpu_with_the_time_left(
    shared: SvdEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eta, "STEP_REPORT_S", 0.0)
    events = Events()
    shared.generate(PHOTO, VideoParams(seed=1), events)
    for step in (0, 1):
        within = [e for e in events if (e.stage, e.step) == (Stage.DENOISING, step)]
        assert len(within) > 20
        assert all(e.remaining_s is not None for e in within[1:])


def test_cancel_stops_within_a_step(shared: SvdEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    before = make(shared)
    monkeypatch.setattr(eta, "STEP_REPORT_S", 0.0)
    events = Events(lambda event: len(events) == 10)
    with pytest.raises(Cancelled):
        shared.generate(PHOTO, VideoParams(seed=1), events)
    assert (events[-1].stage, events[-1].step) == (Stage.DENOISING, 0)
    monkeypatch.undo()
    assert np.array_equal(before.frames, make(shared).frames)


def test_steps_show_how_all_frames_look_so_far(shared: SvdEngine) -> None:
    events = Events()
    shared.generate(PHOTO, VideoParams(seed=1, num_inference_steps=20), events)
    shown = {e.step: e.preview for e in events if e.preview is not None}
    assert {e.stage for e in events if e.preview is not None} == {Stage.DENOISING}
    assert list(shown) == [1, 3, 6, 9, 12, 15, 18, 20]
    for preview in shown.values():
        with Image.open(io.BytesIO(preview)) as picture:
            assert (picture.format, picture.n_frames) == ("WEBP", NUM_FRAMES)
            assert picture.width == 2 * picture.height
        assert len(preview) <= 150_000


def test_decoding_counts_in_the_time_that_remains(shared: SvdEngine) -> None:
    events = Events()
    shared.generate(PHOTO, VideoParams(seed=1, num_inference_steps=4), events)
    last_step = [e for e in events if e.stage is Stage.DENOISING][-1]
    assert last_step.remaining_s is not None
    assert last_step.remaining_s > 0


@pytest.mark.parametrize(
    ("stage", "step"),
    [
        (Stage.ENCODING, 0),
        (Stage.DENOISING, 0),
        (Stage.DENOISING, 1),
        (Stage.DENOISING, 2),
        (Stage.DECODING, 0),
        (Stage.DECODING, 1),
    ],
)
def test_cancel_stops_there_and_leaves_no_trace(shared: SvdEngine, stage: Stage, step: int) -> None:
    """Defect 16: a stop that is looked at only when everything is done."""
    before = make(shared, decode_chunk_size=1)
    events = Events(lambda event: (event.stage, event.step) == (stage, step))
    with pytest.raises(Cancelled):
        shared.generate(PHOTO, VideoParams(seed=1, decode_chunk_size=1), events)
    assert (events[-1].stage, events[-1].step) == (stage, step)
    assert np.array_equal(before.frames, make(shared, decode_chunk_size=1).frames)


def test_whatever_the_listener_raises_comes_out(shared: SvdEngine) -> None:
    def leave(event: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shared.generate(PHOTO, VideoParams(seed=1), leave)
    make(shared)


def test_one_video_at_a_time_and_those_who_wait_hear_of_it(
    shared: SvdEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svd_core.engine.engine.POLL_S", 0.02)
    inside, go_on = threading.Event(), threading.Event()

    def hold(event: Progress) -> None:
        if event.stage is Stage.DENOISING and not inside.is_set():
            inside.set()
            assert go_on.wait(10)

    first = threading.Thread(
        target=shared.generate, args=(PHOTO, VideoParams(seed=1), hold), daemon=True
    )
    first.start()
    assert inside.wait(10)
    waiting = Events(lambda event: len(waiting) == 3)
    with pytest.raises(Cancelled):
        shared.generate(PHOTO, VideoParams(seed=2), waiting)
    assert {event.stage for event in waiting} == {Stage.ENCODING}
    go_on.set()
    first.join(10)
    assert not first.is_alive()
    make(shared)


# --- when it fails


@pytest.mark.parametrize("part", ["unet", "vae"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_no_picture_are_told(engine: SvdEngine, part: str, value: float) -> None:
    module = getattr(pipeline_of(engine), part)
    layer = module.conv_out if part == "unet" else module.decoder.time_conv_out
    good = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.fill_(value)
    events = Events()
    with pytest.raises(GenerationFailed, check=has_code("model_gave_nan")):
        engine.generate(PHOTO, VideoParams(seed=1), events)
    assert steps_of(events) == ([0] if part == "unet" else [0, 1, 2]), "told as early as can be"
    with torch.no_grad():
        layer.weight.copy_(good)
    make(engine)


def test_a_failing_model_is_told_in_a_sentence(
    engine: SvdEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access\nmore lines\n")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline_of(engine).vae, "encode", fail)
        with pytest.raises(GenerationFailed, match="The model failed: CUDA error") as caught:
            make(engine)
    assert "\n" not in caught.value.message
    make(engine)


class Scarce:
    """Stands in for a part of the model on a device too small, `times` times."""

    def __init__(self, original: Callable[..., Any], times: int, error: Exception) -> None:
        self.original, self.times, self.error = original, times, error

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.times -= 1
        if self.times >= 0:
            raise self.error
        return self.original(*args, **options)


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.27 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    MemoryError(),
]


@pytest.mark.parametrize(
    ("place", "error"), [("encode", FULL[0]), *(("decode", error) for error in FULL)]
)
def test_memory_that_ran_out_is_tried_once_more_with_a_smaller_plan(
    engine: SvdEngine, monkeypatch: pytest.MonkeyPatch, error: Exception, place: str
) -> None:
    before = make(engine)
    vae = pipeline_of(engine).vae
    monkeypatch.setattr(vae, place, Scarce(getattr(vae, place), 1, error))
    events = Events()
    clip = engine.generate(PHOTO, VideoParams(seed=1), events)
    assert before.params.decode_chunk_size == 3
    assert clip.params.decode_chunk_size == 1
    (note,) = clip.notes
    assert "Memory ran out" in note
    assert "1 frame decoded at once" in note
    assert [e.note for e in events if e.note] == [note]
    assert steps_of(events) == ([0, 1, 2] if place == "encode" else [0, 1, 2, 0, 1, 2])
    assert make(engine).params.decode_chunk_size == 1, "the plan stays small"
    assert make(engine).notes == ()


def test_memory_that_runs_out_twice_is_an_error(
    engine: SvdEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = pipeline_of(engine).vae
    scarce = Scarce(vae.decode, 2, FULL[0])
    monkeypatch.setattr(vae, "decode", scarce)
    with pytest.raises(
        OutOfMemory, check=has_code("memory_too_small", frames=3, width=64, height=32)
    ):
        make(engine)
    assert scarce.times == 0
    assert len(make(engine).frames) == 3


def test_one_greedy_request_does_not_slow_down_the_others(
    engine: SvdEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = pipeline_of(engine).vae
    monkeypatch.setattr(vae, "decode", Scarce(vae.decode, 1, FULL[0]))
    assert make(engine, num_frames=9, decode_chunk_size=9).params.decode_chunk_size == 1
    assert make(engine).params.decode_chunk_size == 3


def test_a_placing_that_broke_off_is_done_again(
    engine: SvdEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = pipeline_of(engine).vae
    placed: list[MemoryPlan] = []

    def place(pipeline: Any, chosen: MemoryPlan, *_: bool) -> None:
        placed.append(chosen)
        if len(placed) == 1:
            raise FULL[0]

    monkeypatch.setattr(loaded_model, "place", place)
    monkeypatch.setattr(vae, "decode", Scarce(vae.decode, 1, FULL[0]))
    with pytest.raises(OutOfMemory):
        make(engine)
    make(engine)
    assert [chosen.decode_chunk_size for chosen in placed] == [1, 3]


def test_weights_that_do_not_fit_are_placed_by_a_smaller_plan(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[MemoryPlan] = []

    def place(pipeline: Any, chosen: MemoryPlan, *_: bool) -> None:
        placed.append(chosen)
        if len(placed) < 3:
            raise FULL[0]

    monkeypatch.setattr(loaded_model, "place", place)
    device = Device(kind="cuda", name="NVIDIA L4, 24 GB", total_bytes=0, free_bytes=80 * 10**9)
    monkeypatch.setattr(pipeline_loader, "find_device", lambda: device)
    engine = SvdEngine(str(tiny_checkpoint))
    engine.load(Events())
    assert [chosen.offload for chosen in placed] == ["none", "model", "sequential"]
    assert engine.status.device == "NVIDIA L4, 24 GB, sequential offload"


def test_weights_that_fit_nowhere_are_an_error(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def place(*_: Any) -> None:
        raise FULL[0]

    monkeypatch.setattr(loaded_model, "place", place)
    engine = SvdEngine(str(tiny_checkpoint))
    with pytest.raises(OutOfMemory, check=has_code("memory_too_small_to_load")):
        engine.load(Events())
    assert (engine.status.state, engine.status.notice is None) == ("failed", False)


def test_hooks_of_model_offload_are_ready_again_after_a_cancel(engine: SvdEngine) -> None:
    """Offload with the CPU as the device: the hooks are real, only nothing is gained."""
    whole = make(engine)
    pipeline = pipeline_of(engine)
    pipeline.enable_model_cpu_offload(device="cpu")
    for stop in (Stage.DENOISING, Stage.DECODING):
        with pytest.raises(Cancelled):
            engine.generate(PHOTO, VideoParams(seed=1), Events(lambda e, s=stop: e.stage is s))
        assert all(hasattr(getattr(pipeline, part), "_hf_hook") for part in ("unet", "vae"))
    assert np.array_equal(whole.frames, make(engine).frames)


def test_bfloat16_changes_hardly_a_pixel_and_repeats_itself(
    shared: SvdEngine, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "half")
    dials = read_json(folder / "svd.json")
    write(folder / "svd.json", dials | {"half_precision_on_cpu": True})
    device = Device(kind="cpu", name="CPU", total_bytes=0, free_bytes=0, bfloat16=True)
    monkeypatch.setattr(pipeline_loader, "find_device", lambda: device)
    engine = SvdEngine(str(folder))
    first, full = make(engine, max_guidance_scale=2.0), make(shared, max_guidance_scale=2.0)
    assert pipeline_of(engine).unet.dtype == torch.bfloat16
    assert not np.array_equal(first.frames, full.frames)
    difference = first.frames.astype(float) - full.frames
    assert 10 * np.log10(255**2 / np.mean(difference**2)) > 35, "PSNR in dB"
    assert np.array_equal(first.frames, make(engine, max_guidance_scale=2.0).frames)
    stopped = Events(lambda event: event.stage is Stage.DENOISING)
    with pytest.raises(Cancelled):
        engine.generate(PHOTO, VideoParams(seed=2), stopped)
    assert np.array_equal(first.frames, make(engine, max_guidance_scale=2.0).frames)


# --- loading


def test_loading_tells_the_checkpoint_that_runs(tiny_checkpoint: Path) -> None:
    engine = SvdEngine(str(tiny_checkpoint))
    assert (engine.status.state, engine.status.device) == ("loading", "")
    events = Events()
    found = engine.load(events).checkpoint
    assert found == find_checkpoint(str(tiny_checkpoint), cuda=False)
    assert engine.status.checkpoint == found
    assert (engine.status.state, engine.status.notice) == ("ready", None)
    assert engine.status.device.startswith("CPU, ")
    assert {event.stage for event in events} == {Stage.LOADING}
    assert events[-1].step == events[-1].total > 0


def test_the_first_sign_comes_before_anything_slow(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded_model, "open_folder", pytest.fail)
    events = Events(lambda event: True)
    engine = SvdEngine(str(tiny_checkpoint))
    with pytest.raises(Cancelled):
        engine.load(events)
    assert (events[0].stage, events[0].total) == (Stage.LOADING, 0)


def test_loading_again_is_silent_and_opens_nothing(
    shared: SvdEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.load(Events())
    monkeypatch.setattr(loaded_model, "open_folder", pytest.fail)
    events = Events()
    shared.load(events)
    assert events == []


def test_many_who_load_at_once_load_once(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svd_core.engine.engine.POLL_S", 0.02)
    opened: list[Path] = []

    def open_folder(folder: Path, *rest: Any) -> Any:
        opened.append(folder)
        time.sleep(0.2)
        return pipeline_loader.open_folder(folder, *rest)

    monkeypatch.setattr(loaded_model, "open_folder", open_folder)
    engine = SvdEngine(str(tiny_checkpoint))
    heard = [Events() for _ in range(4)]
    threads = [threading.Thread(target=engine.load, args=(events,)) for events in heard]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(opened) == 1
    assert all(len(events) > 1 for events in heard), "those who wait hear of it too"


def test_a_load_that_was_stopped_can_be_tried_again(tiny_checkpoint: Path) -> None:
    engine = SvdEngine(str(tiny_checkpoint))
    with pytest.raises(Cancelled):
        engine.load(Events(lambda event: event.total > 0))
    make(engine)


def test_generate_loads_by_itself(tiny_checkpoint: Path) -> None:
    events = Events()
    SvdEngine(str(tiny_checkpoint)).generate(PHOTO, VideoParams(seed=1), events)
    assert events[0].stage is Stage.LOADING


def test_a_checkpoint_of_the_hub_is_fetched_and_known_by_its_commit(hub: FakeHub) -> None:
    engine = SvdEngine(OPEN)
    found = engine.load(Events()).checkpoint
    assert (found.source, found.revision, found.num_frames) == (OPEN, COMMIT, NUM_FRAMES)
    assert len(make(engine).frames) == NUM_FRAMES


def test_a_gpu_gets_the_half_precision_files(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(kind="cuda", name="NVIDIA L4, 24 GB", total_bytes=0, free_bytes=80 * 10**9)
    monkeypatch.setattr(pipeline_loader, "find_device", lambda: device)
    monkeypatch.setattr(loaded_model, "place", lambda pipeline, chosen: None)
    engine = SvdEngine("auto")
    assert engine.load(Events()).checkpoint.source == SVD_XT
    assert pipeline_of(engine).unet.dtype == torch.float16
    assert [f for f in hub.downloaded() if f.endswith(".safetensors") and "fp16" not in f] == []


@pytest.fixture
def demo(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny checkpoint in the place of svd-nano, to fall back to."""
    from dataclasses import replace

    table = dict(CHECKPOINTS)
    table["svd-nano"] = replace(table["svd-nano"], source=str(tiny_checkpoint))
    monkeypatch.setattr("svd_core.checkpoints.table.CHECKPOINTS", table)


@pytest.mark.usefixtures("demo")
def test_svd_nano_stands_in_for_a_gated_model_and_says_why(hub: FakeHub) -> None:
    engine = SvdEngine("svd-xt-1.1")
    assert engine.load(Events()).checkpoint.name == "svd-nano"
    assert engine.status.state == "ready"
    assert engine.status.checkpoint.name == "svd-nano"
    notice = engine.status.notice
    assert isinstance(notice, Message)
    assert (notice.code, notice.values["model"]) == ("demo_instead", "svd-nano")
    assert "Accept it at https://huggingface.co/stabilityai/" in notice
    make(engine)


@pytest.mark.usefixtures("demo")
def test_svd_nano_stands_in_while_the_hub_is_down(hub: FakeHub) -> None:
    hub.stop()
    engine = SvdEngine("svd-xt")
    assert engine.load(Events()).checkpoint.name == "svd-nano"
    assert "Check the network" in (engine.status.notice or "")


@pytest.mark.usefixtures("demo")
def test_nothing_stands_in_for_who_wants_one_model_or_none(hub: FakeHub) -> None:
    engine = SvdEngine("svd-xt-1.1", fallback=False)
    with pytest.raises(ModelGated):
        engine.load(Events())
    assert engine.status.state == "failed"
    assert "HF_TOKEN" in (engine.status.notice or "")
    hub.stop()
    with pytest.raises(ModelUnreachable):
        SvdEngine(OPEN, fallback=False).load(Events())


@pytest.mark.usefixtures("demo")
def test_nothing_stands_in_for_a_folder(tiny_checkpoint: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    for path in (folder / "vae").glob("*.safetensors"):
        path.unlink()
    engine = SvdEngine(str(folder))
    with pytest.raises(
        ModelBroken,
        check=has_code("model_incomplete", file="vae/diffusion_pytorch_model.safetensors"),
    ):
        engine.load(Events())
    assert engine.status.state == "failed"


def test_an_unknown_model_stops_the_start() -> None:
    with pytest.raises(InvalidSettings, check=has_code("model_setting_unknown", value="'svd-xl'")):
        SvdEngine("svd-xl")


# --- guidance that was left out


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (None, None, (1.0, 3.0)),
        (2.0, None, (2.0, 3.0)),
        (4.0, None, (4.0, 4.0)),
        (None, 2.0, (1.0, 2.0)),
        (None, 0.5, (0.5, 0.5)),
        (2.0, 2.0, (2.0, 2.0)),
    ],
)
def test_guidance_never_falls(
    low: float | None, high: float | None, expected: tuple[float, float]
) -> None:
    asked = VideoParams(seed=1, min_guidance_scale=low, max_guidance_scale=high)
    found = with_defaults(asked, CHECKPOINTS["svd-xt"], 8)
    assert (found.min_guidance_scale, found.max_guidance_scale) == expected


def test_falling_guidance_is_refused(shared: SvdEngine) -> None:
    with pytest.raises(InvalidRequest, check=has_code("guidance_falls")) as caught:
        make(shared, min_guidance_scale=2.0, max_guidance_scale=1.0)
    assert caught.value.field == "max_guidance_scale"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("offload", ["none", "model", "sequential"])
def test_every_placement_gives_the_same_frames(tiny_checkpoint: Path, offload: Any) -> None:
    engine = SvdEngine(str(tiny_checkpoint), offload)
    plain = make(SvdEngine(str(tiny_checkpoint), "none")).frames.astype(int)
    first = make(engine).frames
    with pytest.raises(Cancelled):
        engine.generate(PHOTO, VideoParams(seed=1), Events(lambda e: e.step == 1))
    assert np.array_equal(first, make(engine).frames)
    assert np.abs(first - plain).max() <= 2
