"""A UNet compiled ahead of time: who is answered by it, and that it can cost nobody a video.

Mostly with tools that compile nothing. The last tests start a Space on ZeroGPU's own package, as in
tests/web/test_zero_gpu.py: it exports, compiles for the CPU, and uses what lies on disk then.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import attention

from svd_core.checkpoints.memory_plan import MemoryPlan
from svd_core.checkpoints.speed_modes import AccelerationConfig, AheadOfTime
from svd_core.engine.engine import SvdEngine
from svd_core.engine.optimizations.aot_package import Packaged, exported, question
from svd_core.engine.optimizations.attention_probe import UNPROBED
from svd_core.engine.optimizations.guidance import Guidance
from svd_core.engine.optimizations.patching import patch
from svd_core.engine.optimizations.registry import OPTIMIZATIONS, optimizations_for
from svd_core.engine.optimizations.torch_compile import CompileKey
from svd_core.engine.pipeline_loader import place, unload
from svd_core.media.recipe import Recipe
from svd_core.params import VideoParams
from svd_core.settings import Settings
from svd_core.types import GenerationResult
from svd_core.web import zero_gpu
from tests.fakes.random_checkpoint import question as asked
from tests.fakes.random_checkpoint import random_models, smallest_unet
from tests.fakes.tiny_checkpoint import NUM_FRAMES, PHOTO, write
from tests.web.test_zero_gpu import Space, started

STEPS = 2
ON_CUDA = MemoryPlan(device="cuda", dtype="float32", decode_chunk_size=2)
KIND = CompileKey(
    model="tiny", plan=ON_CUDA, size=PHOTO.size, num_frames=3, guided=True, speed="exact"
)


class Tools:
    """Those of a platform that compiles nothing: what runs is the exported graph."""

    def __init__(self) -> None:
        self.graphs: dict[str, Any] = {}
        self.made = 0
        self.runs = 0
        self.backends: list[Any] = []
        self.broken: Exception | None = None
        self.off = 1.0
        self.ahead = AheadOfTime(run_on_gpu=self.borrow, compile=self.compile, load=self.load)

    def borrow(self, task: Callable[[], None]) -> None:
        task()
        self.runs = 0  # but for the one that checks

    def compile(self, folder: Path, program: Any) -> None:
        self.backends = attention._cur_sdpa_kernel_backends(with_priority=True)
        folder.mkdir()
        self.made += 1
        self.graphs[folder.name] = program.module()

    def load(self, unet: Any, folder: Path) -> None:
        def run(*asked: Any) -> Any:
            self.runs += 1
            if self.broken:
                raise self.broken
            (answer,) = self.graphs[folder.name](*asked)
            return (answer * self.off,)

        unet.forward = run


@pytest.fixture
def tools() -> Tools:
    return Tools()


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In single precision also on a GPU, so that it can be compared."""
    found = shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("smallest") / "smallest")
    shutil.rmtree(found / "unet")
    smallest_unet().save_pretrained(found / "unet")
    dials = json.loads((found / "svd.json").read_text())
    write(found / "svd.json", dials | {"single_precision_unet": True})
    return found


@pytest.fixture
def open_engine(checkpoint: Path, tools: Tools, tmp_path: Path) -> Callable[[Any], SvdEngine]:
    def opened(setting: Any) -> SvdEngine:
        ups = AccelerationConfig(compile=setting, folder=tmp_path / "compiled", ahead=tools.ahead)
        return SvdEngine(str(checkpoint), acceleration=ups)

    return opened


def clip(engine: SvdEngine, image: Image.Image = PHOTO, **params: Any) -> GenerationResult:
    wanted = VideoParams(**{"seed": 1, "num_inference_steps": STEPS} | params)
    return engine.generate(image, wanted, lambda _: None)


def same(found: GenerationResult, usual: GenerationResult) -> bool:
    return bool(abs(found.frames.astype(int) - usual.frames.astype(int)).max() <= 1)


def test_a_package_is_made_once_and_answers_whoever_asks_for_its_kind(
    tools: Tools, open_engine: Callable[[Any], SvdEngine]
) -> None:
    usual = clip(open_engine("auto"))
    assert tools.made == 0  # nobody wanted to pay for it
    assert same(clip(open_engine("on")), usual)
    assert tools.made == 1
    assert tools.runs == STEPS
    # The graph leaves open who computes attention; the rewrites' choice held while it was compiled.
    assert tools.backends == list(UNPROBED)
    assert tools.backends != attention._cur_sdpa_kernel_backends(with_priority=True)
    assert same(clip(open_engine("on")), usual)
    engine = open_engine("auto")
    assert same(clip(engine), usual)
    assert tools.made == 1
    assert tools.runs == 3 * STEPS
    clip(open_engine("off"))
    clip(engine, num_frames=NUM_FRAMES - 1)
    clip(engine, PHOTO.transpose(Image.Transpose.ROTATE_90))
    clip(engine, max_guidance_scale=1.0)
    assert tools.runs == 3 * STEPS
    clip(engine, speed="fast", num_inference_steps=6)
    assert 0 < tools.runs - 3 * STEPS < 6  # its guided steps are of the same shapes


def test_a_package_that_fails_is_removed_and_costs_no_video(
    tools: Tools,
    open_engine: Callable[[Any], SvdEngine],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    usual = clip(open_engine("off"))
    engine = open_engine("on")
    engine.load(lambda _: None)
    tools.broken = RuntimeError("of another GPU\nat length")
    with caplog.at_level(logging.WARNING):
        found = clip(engine)
    assert (found.frames == usual.frames).all()
    assert "failed and is removed: RuntimeError: of another GPU" in caplog.text
    assert list((tmp_path / "compiled").iterdir()) == []
    assert tools.runs == 1
    clip(engine)
    assert tools.runs == 1
    tools.broken = None
    assert same(clip(open_engine("on")), usual)
    assert tools.runs == STEPS


def test_a_package_is_not_to_blame_for_what_the_unet_cannot_do_either(tmp_path: Path) -> None:
    def fails(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    unet: Any = smallest_unet()
    packaged = Packaged(fails, fails, question(unet, KIND, "meta"), tmp_path)
    with pytest.raises(torch.OutOfMemoryError):
        packaged(*question(unet, KIND, "cpu"), False)
    assert tmp_path.exists()


@pytest.mark.parametrize("stage", ["run_on_gpu", "compile", "load"])
def test_a_model_is_loaded_though_it_cannot_be_compiled(
    stage: str, open_engine: Callable[[Any], SvdEngine], tools: Tools, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def fails(*_: Any) -> None:
        raise RuntimeError("GPU task aborted")

    tools.ahead = AheadOfTime(**{**vars(tools.ahead), stage: fails})
    with caplog.at_level(logging.WARNING):
        clip(open_engine("on"))
    assert "not compiled ahead of time: RuntimeError: GPU task aborted" in caplog.text
    assert tools.runs == 0
    assert list((tmp_path / "compiled").iterdir()) == []


@pytest.mark.parametrize("off", [1.03, float("nan")])
def test_a_package_that_computes_something_else_is_not_kept(
    off: float, open_engine: Callable[[Any], SvdEngine], tools: Tools, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    tools.off = off
    with caplog.at_level(logging.WARNING):
        open_engine("on").load(lambda _: None)
    assert "it answers otherwise" in caplog.text
    assert list((tmp_path / "compiled").iterdir()) == []


def test_nothing_holds_on_to_weights_that_are_moved(
    open_engine: Callable[[Any], SvdEngine], tools: Tools
) -> None:
    ways = {"on": lambda pipeline: place(pipeline, ON_CPU), "auto": unload}
    for setting, let_go in ways.items():
        engine = open_engine(setting)
        engine.load(lambda _: None)
        assert engine._loaded is not None
        pipeline = engine._loaded._pipeline
        assert isinstance(pipeline.unet.forward.forward, Packaged)
        let_go(pipeline)
        assert not isinstance(pipeline.unet.forward.forward, Packaged)


ON_CPU = MemoryPlan(device="cpu", dtype="float32", decode_chunk_size=1, split_guidance=True)


@pytest.mark.slow
def test_the_whole_unet_is_one_graph_without_numbers_of_its_own() -> None:
    unet: Any = random_models()["unet"]
    patch(unet, [(name, OPTIMIZATIONS[name].rewrite) for name in optimizations_for(ON_CUDA)])
    unet.forward = Guidance(unet.forward)
    program = exported(unet, KIND)
    assert program.graph_signature.lifted_tensor_constants == ()
    assert set(program.constants) <= set(unet.state_dict())
    told = question(unet, KIND, "cpu")
    with torch.no_grad():
        assert torch.equal(program.module()(*told, False)[0], unet(*told, False)[0])


def test_who_lends_a_gpu_compiles_ahead_or_not_at_all(
    tools: Tools, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = Settings(compile="on", turbo=Path(__file__), data_dir=tmp_path)
    assert AccelerationConfig.from_settings(settings).turbo
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert AccelerationConfig.from_settings(settings) == AccelerationConfig()
    ups = AccelerationConfig.from_settings(settings, tools.ahead)
    assert ups == AccelerationConfig(compile="on", folder=tmp_path / "compiled", ahead=tools.ahead)


def test_a_visitors_gpu_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    borrow = zero_gpu.ahead_of_time().run_on_gpu  # elsewhere than on ZeroGPU it lends at once
    borrow(lambda: done.append(1))
    monkeypatch.setattr(zero_gpu, "parent_process", object)
    with pytest.raises(RuntimeError, match="lent for a video"):
        borrow(lambda: done.append(2))
    assert done == [1]


@pytest.fixture(scope="module")
def space(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """A Space that compiles at its start."""
    folder = tmp_path_factory.mktemp("packaged")
    torch_cache = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "torch")}
    with started(checkpoint, folder, SVD_COMPILE="on", **torch_cache) as space:
        yield space


@pytest.mark.slow
def test_a_space_compiles_before_it_opens(space: Space) -> None:
    paths = [path for path, _ in space.devices.calls[:4]]
    assert paths == ["/schedule", "/allow", "/release", "/startup-report"]
    assert space.devices.of("/schedule")[0]["durationSeconds"] == "1500"
    assert space.devices.of("/release")[0]["fail"] == "false"
    assert len(packages(space)) == 1


def packages(space: Space) -> list[Path]:
    return list((space.log.parent / "compiled").iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Error while reading infos", "ignore:.*LeafSpec")
def test_its_package_computes_the_same_with_any_weights(
    space: Space, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch._C, "_cuda_init", None, raising=False)
    unet: Any = smallest_unet()
    with torch.no_grad():
        unet.conv_in.weight *= 2
    patch(unet, [(name, OPTIMIZATIONS[name].rewrite) for name in optimizations_for(ON_CUDA)])
    (sample, *more), _ = asked(halves=2, frames=NUM_FRAMES, width=8, height=4)
    with torch.no_grad():
        usual = unet(sample, *more, False)[0]
        (package,) = packages(space)
        zero_gpu.ahead_of_time().load(unet, package)
        found = unet(sample, *more, False)[0]
    assert not torch.equal(found, usual)  # it is rounded as compiled code rounds
    assert (found - usual).abs().max() <= 3e-6 * usual.abs().max()


@pytest.mark.slow
def test_a_space_uses_its_package_and_does_without_a_damaged_one(space: Space) -> None:
    video, _, _ = space.generate(seed=3)
    assert Recipe.read(Path(video)).params.seed == 3
    assert "failed" not in space.log.read_text()
    (package,) = packages(space)
    (package / "root" / "package.pt2").write_bytes(b"PK, but no archive")
    for _ in range(2):
        again, _, _ = space.generate(seed=3)
        assert Path(again).stat().st_size > 1000
        assert space.log.read_text().count("failed and is removed") == 1
    assert packages(space) == []
