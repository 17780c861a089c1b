"""Several checkpoints on one server: which, and one of them in memory at a time."""

import gc
import io
import json
import shutil
import sqlite3
import threading
import weakref
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.checkpoints.table import CHECKPOINTS
from svd_core.engine import loaded_model, pipeline_loader
from svd_core.engine.engine import SvdEngine
from svd_core.errors import (
    Cancelled,
    GenerationFailed,
    InvalidRequest,
    InvalidSettings,
    ModelBroken,
    ModelGated,
    ModelUnreachable,
    OutOfMemory,
)
from svd_core.event_stream import error_to_outcome
from svd_core.events import Failed, Progress, Stage, Succeeded
from svd_core.messages import Message
from svd_core.params import VideoParams, VideoRequest
from svd_core.types import GenerationResult
from tests.fakes.engines import READY, RealWork
from tests.fakes.errors import has_code
from tests.fakes.hub_server import COMMIT, OPEN, FakeHub
from tests.fakes.tiny_checkpoint import NUM_FRAMES, PHOTO, SIZES, write
from tests.fakes.work import front_queue, worker_queue


@pytest.fixture(scope="module")
def two(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """`wide` with the sizes of the tiny one and three frames, `square` with others and four. Their
    UNets differ."""
    folder = tmp_path_factory.mktemp("two")
    wide, square = (shutil.copytree(tiny_checkpoint, folder / name) for name in ("wide", "square"))
    write(square / "svd.json", {"sizes": [[48, 48]], "num_frames": 4, "num_inference_steps": 1})
    from safetensors.torch import load_file, save_file

    path = square / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    save_file({name: weight * 1.5 for name, weight in weights.items()}, path, {"format": "pt"})
    return wide, square


def named(*folders: Path) -> str:
    return ", ".join(map(str, folders))


@pytest.fixture
def engine(two: tuple[Path, Path], one_thread: None) -> SvdEngine:
    return SvdEngine(named(*two))


def silent(_: Progress) -> None:
    pass


def make(engine: SvdEngine, model: str | None = None, **params: Any) -> GenerationResult:
    return engine.generate(PHOTO, VideoParams(**{"seed": 1, **params}, model=model), silent)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the folders that were read into memory, as they are."""
    names: list[str] = []

    def open_folder(folder: Path, *rest: Any) -> Any:
        names.append(folder.name)
        return pipeline_loader.open_folder(folder, *rest)

    monkeypatch.setattr(loaded_model, "open_folder", open_folder)
    return names


def pipeline_of(engine: SvdEngine) -> Any:
    assert engine._loaded is not None
    return engine._loaded._pipeline


# --- what is on offer


def test_several_are_named_and_the_first_is_the_usual_one(two: tuple[Path, Path]) -> None:
    offer = ModelCatalog.from_setting(f"{two[0]}, svd-nano ,{OPEN}", cuda=False)
    assert offer.names == ("wide", "svd-nano", OPEN.rsplit("/")[-1])
    assert offer.get(None) is offer.default is offer.checkpoints[0]
    assert offer.get("svd-nano") is offer.checkpoints[1]
    assert ModelCatalog.from_setting("auto", cuda=True).names == ("svd-xt",)


@pytest.mark.parametrize("name", ["svd", "SVD-NANO", "", "../wide", "svd-xt,svd-nano"])
def test_what_is_not_on_offer_is_refused_with_what_is(name: str) -> None:
    with pytest.raises(
        InvalidRequest, check=has_code("model_unknown", known=("svd-xt", "svd-nano"))
    ) as caught:
        ModelCatalog.from_setting("svd-xt,svd-nano", cuda=False).get(name)
    assert caught.value.field == "model"


@pytest.mark.parametrize(
    ("setting", "code"),
    [
        ("svd-xt,svd-xl", "model_setting_unknown"),
        ("svd-xt,", "model_setting_unknown"),
        ("svd-xt,svd-xt", "models_same_name"),
        ("svd-xt,other/svd-xt", "models_same_name"),
        ("svd-nano,auto", "models_with_auto"),
    ],
)
def test_names_that_do_not_go_together_stop_the_start(setting: str, code: str) -> None:
    with pytest.raises(InvalidSettings, check=has_code(code)):
        SvdEngine(setting)


def test_a_folder_may_have_a_comma_in_its_name(two: tuple[Path, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(two[0], tmp_path / "one, two")
    assert ModelCatalog.from_setting(str(folder), cuda=False).names == ("one, two",)


def test_zero_gpu_takes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    with pytest.raises(InvalidSettings, check=has_code("models_on_zero_gpu")):
        SvdEngine("svd-nano,svd-xt")
    SvdEngine("svd-nano")


# --- one at a time


def test_each_video_is_made_by_the_checkpoint_it_asks_for(
    engine: SvdEngine, opened: list[str]
) -> None:
    """In a row nothing is loaded again, and neither leaves anything behind for the other."""
    first, second = make(engine, "wide"), make(engine)
    other = make(engine, "square")
    assert engine.status.checkpoint.name == other.params.model == "square"
    assert (len(first.frames), len(other.frames)) == (NUM_FRAMES, 4)
    assert other.params.num_inference_steps == 1
    again = make(engine, "wide")
    assert opened == ["wide", "square", "wide"]
    assert np.array_equal(first.frames, second.frames)
    assert np.array_equal(first.frames, again.frames)
    alone = SvdEngine(str(engine.status.catalog.get("square").source))
    assert np.array_equal(make(alone).frames, other.frames)
    assert not np.array_equal(
        make(engine, num_frames=4, num_inference_steps=1).frames, other.frames
    )


def test_loading_another_reports_as_loading_always_does(engine: SvdEngine) -> None:
    engine.load(silent)
    events: list[Progress] = []
    found = engine.load(events.append, "square").checkpoint
    assert found.sizes == ((48, 48),)
    assert {event.stage for event in events} == {Stage.LOADING}
    assert (events[0].step, events[0].total) == (0, 0), "nothing of the one before is told"
    assert events[-1].step == events[-1].total > 0
    assert engine.load(events.append, "wide").checkpoint.sizes == SIZES


def test_the_one_before_is_out_of_memory_while_the_next_comes(
    engine: SvdEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if something still refers to it, as the traceback of an error does."""
    make(engine)
    pipeline = pipeline_of(engine)
    weights = [weakref.ref(p) for p in pipeline.unet.parameters()]
    there: list[int] = []

    def open_folder(*all_of_it: Any) -> Any:
        there.append(sum(weight() is not None for weight in weights))
        return pipeline_loader.open_folder(*all_of_it)

    monkeypatch.setattr(loaded_model, "open_folder", open_folder)
    engine.load(silent, "square")
    assert there == [0]
    for part in pipeline_loader.CLASSES:
        assert all(p.is_meta for p in getattr(pipeline, part).parameters())


def test_nothing_of_a_pipeline_is_left_after_a_change(engine: SvdEngine) -> None:
    make(engine)
    gone = weakref.ref(pipeline_of(engine).unet)
    make(engine, "square")
    gc.collect()
    assert gone() is None


def test_an_error_that_is_kept_keeps_nothing_else(engine: SvdEngine) -> None:
    """The end of a job stays for hours, with its error."""

    class Heavy:
        pass

    def fail() -> None:
        heavy = Heavy()
        held.append(weakref.ref(heavy))
        try:
            raise RuntimeError("inside")
        except RuntimeError as error:
            raise GenerationFailed("model_gave_nan") from error

    held: list[weakref.ref[Heavy]] = []
    try:
        fail()
    except GenerationFailed as error:
        ending = error_to_outcome("0" * 32, error)
    gc.collect()
    assert held[0]() is None
    assert ending.error.code == "model_gave_nan"  # type: ignore[union-attr]


@pytest.mark.slow
def test_the_turn_of_another_between_loading_and_making(engine: SvdEngine) -> None:
    """Two who ask for different ones at once each get their own."""
    wanted = {"wide": make(engine, "wide"), "square": make(engine, "square")}
    assert len(wanted["wide"].frames) != len(wanted["square"].frames)
    made: dict[str, list[GenerationResult]] = {"wide": [], "square": []}

    def run(model: str) -> None:
        for _ in range(2):
            made[model].append(make(engine, model))

    threads = [threading.Thread(target=run, args=(model,)) for model in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for model, clips in made.items():
        assert len(clips) == 2
        assert all(np.array_equal(clip.frames, wanted[model].frames) for clip in clips)


def test_what_is_not_on_offer_fails_and_changes_nothing(
    engine: SvdEngine, opened: list[str]
) -> None:
    make(engine)
    with pytest.raises(
        InvalidRequest, check=has_code("model_unknown", value="svd-xt", known=("wide", "square"))
    ):
        make(engine, "svd-xt")
    assert engine.status.state == "ready"
    make(engine)
    assert opened == ["wide"]


# --- jobs of other times


def test_a_job_of_before_there_was_a_choice_takes_the_usual_one(tmp_path: Path) -> None:
    with front_queue(tmp_path) as queue:
        job = queue.submit(VideoRequest(png(), VideoParams(seed=3)))
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite")) as table, table:
        kept = json.loads(table.execute("SELECT params FROM svd_jobs").fetchone()[0])
        assert kept.pop("model", "missing") is None
        table.execute("UPDATE svd_jobs SET params = ?", (json.dumps(kept),))
    work = RealWork(tmp_path)
    with worker_queue(tmp_path, work) as queue:
        *_, last = queue.get(job.id).events()
        assert isinstance(last, Succeeded)
        assert last.video.model == READY.checkpoint.name
        assert queue.get(job.id).params == VideoParams(seed=3)


def test_a_job_for_what_is_not_on_offer_any_more_fails_with_what_is(tmp_path: Path) -> None:
    with front_queue(tmp_path) as queue:
        job = queue.submit(VideoRequest(png(), VideoParams(seed=3, model="square")))
    with worker_queue(tmp_path, RealWork(tmp_path)) as queue:
        *_, last = queue.get(job.id).events()
    assert isinstance(last, Failed)
    assert has_code("model_unknown", value="square", known=("svd-nano",))(last.error)


def test_a_link_and_a_row_carry_the_name(tmp_path: Path) -> None:
    params = VideoParams(seed=1, model="svd-xt-1.1")
    assert VideoParams.from_query(params.to_query()) == params
    assert "model" not in VideoParams(seed=1).to_query()
    with front_queue(tmp_path) as queue:
        job = queue.submit(VideoRequest(png(), params))
        assert queue.of_owner("")[0].params == job.params == params


@pytest.mark.parametrize("model", ["", "x" * 201, "a\nb", 3, ["svd"], True])
def test_what_cannot_be_a_name_is_refused_before_anybody_looks(model: Any) -> None:
    with pytest.raises(InvalidRequest, check=has_code("model_name_invalid")) as caught:
        VideoParams(model=model)
    assert caught.value.field == "model"


def png() -> bytes:
    file = io.BytesIO()
    PHOTO.save(file, "PNG")
    return file.getvalue()


# --- when the other one is not available


def test_what_cannot_be_had_leaves_the_one_in_memory(
    two: tuple[Path, Path], tmp_path: Path, opened: list[str]
) -> None:
    """A file that is missing is noticed before anything makes room."""
    broken = shutil.copytree(two[1], tmp_path / "broken")
    for path in (broken / "vae").glob("*.safetensors"):
        path.unlink()
    engine = SvdEngine(named(two[0], broken))
    make(engine)
    with pytest.raises(
        ModelBroken,
        check=has_code("model_incomplete", file="vae/diffusion_pytorch_model.safetensors"),
    ):
        make(engine, "broken")
    assert (engine.status.state, engine.status.checkpoint.name) == ("ready", "wide")
    assert engine.status.notice is None
    make(engine)
    assert opened == ["wide"]


@pytest.mark.parametrize("error", [OutOfMemory("memory_too_small_to_load", model="x"), Cancelled()])
def test_after_a_change_that_broke_off_the_one_before_comes_back(
    engine: SvdEngine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    first = make(engine)

    def fail(folder: Path, *rest: Any) -> Any:
        if folder.name == "square":
            raise error
        return pipeline_loader.open_folder(folder, *rest)

    monkeypatch.setattr(loaded_model, "open_folder", fail)
    with pytest.raises(type(error)):
        make(engine, "square")
    assert (engine.status.state, engine.status.checkpoint.name) == ("ready", "wide")
    assert np.array_equal(make(engine).frames, first.frames)


@pytest.fixture
def demo(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny checkpoint in the place of svd-nano, to fall back to."""
    table = dict(CHECKPOINTS)
    table["svd-nano"] = replace(table["svd-nano"], source=str(tiny_checkpoint))
    monkeypatch.setattr("svd_core.checkpoints.table.CHECKPOINTS", table)


@pytest.mark.usefixtures("demo")
def test_svd_nano_stands_in_for_the_usual_one_but_for_none_that_is_named(hub: FakeHub) -> None:
    engine = SvdEngine(f"svd-xt-1.1,{OPEN}")
    other = OPEN.rsplit("/")[-1]
    assert make(engine).params.model == "svd-nano"
    notice = engine.status.notice
    assert isinstance(notice, Message)
    assert (notice.code, notice.values["model"]) == ("demo_instead", "svd-nano")
    assert engine.status.catalog.default.name == "svd-nano"
    assert engine.status.catalog.names == ("svd-xt-1.1", other)
    with pytest.raises(ModelGated, check=has_code("model_licence_required")):
        make(engine, "svd-xt-1.1")
    assert (engine.status.state, engine.status.checkpoint.name) == ("ready", "svd-nano")
    assert make(engine, other).params.model == other
    assert engine.status.catalog.get(other).revision == COMMIT
    assert "svd-nano" in (engine.status.notice or ""), "it still stands in for the usual one"
    assert make(engine).params.model == "svd-nano"


@pytest.mark.usefixtures("demo")
def test_the_usual_one_ends_the_stand_in_once_it_can_be_had(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as down:
        down.setattr(loaded_model, "fetch", _no_hub)
        engine = SvdEngine(f"{OPEN},svd-nano")
        assert make(engine).params.model == "svd-nano"
        assert engine.status.notice
    name = engine.status.catalog.names[0]
    assert make(engine, name).params.model == name
    assert engine.status.notice is None
    assert engine.status.catalog.default.name == name


def _no_hub(*_: Any) -> Any:
    raise ModelUnreachable("hub_unreachable", model="a/b", address="https://hub")


# --- what belongs to one of them


@pytest.mark.slow
def test_turbo_weights_are_each_checkpoints_own(
    two: tuple[Path, Path], tmp_path: Path, one_thread: None
) -> None:
    """Those that are in use go with the checkpoint, and come back with it."""
    turbo = tmp_path / "turbo.safetensors"
    shutil.copy(two[1] / "unet" / "diffusion_pytorch_model.safetensors", turbo)
    engine = SvdEngine(named(*two), acceleration=AccelerationConfig(turbo=turbo))
    exact, fast = make(engine, "wide"), make(engine, "wide", speed="turbo")
    assert not np.array_equal(exact.frames, fast.frames)
    other = make(engine, "square", speed="turbo"), make(engine, "square")
    assert not np.array_equal(other[0].frames, other[1].frames)
    assert np.array_equal(make(engine, "wide", speed="turbo").frames, fast.frames)
    assert np.array_equal(make(engine, "wide").frames, exact.frames)
    assert np.array_equal(make(engine, "square").frames, other[1].frames)


@pytest.mark.slow
def test_what_is_compiled_is_noted_for_each(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []

    def place(pipeline: Any, plan: Any, compiled: bool = False) -> None:
        asked.append((Path(pipeline.unet.config._name_or_path).parent.name, compiled))
        pipeline_loader.place(pipeline, plan)  # as if: compiling takes too long for a test

    monkeypatch.setattr(loaded_model, "place", place)
    monkeypatch.setattr("svd_core.engine.optimizations.torch_compile.can_compile", lambda: True)
    folder = tmp_path / "compiled"

    def marks() -> int:
        return sum(path.is_file() for path in folder.iterdir()) if folder.is_dir() else 0

    on = SvdEngine(named(*two), acceleration=AccelerationConfig(compile="on", folder=folder))
    make(on)
    assert marks() == 1
    make(on, "square")
    assert marks() == 2
    asked.clear()
    auto = SvdEngine(named(*two), acceleration=AccelerationConfig(compile="auto", folder=folder))
    for model in ("wide", "square"):
        make(auto, model)
    assert [name for name, compiled in asked if compiled] == ["wide", "square"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("offload", ["none", "model", "sequential"])
def test_a_gpu_gets_its_memory_back(two: tuple[Path, Path], offload: Any) -> None:
    engine = SvdEngine(named(*two), offload)
    make(engine)
    held = torch.cuda.memory_allocated()
    for model in ("square", "wide", "square", "wide"):
        make(engine, model)
    assert torch.cuda.memory_allocated() <= held + 2**20
