"""What every test starts from: no settings of the machine, and a few fakes."""

import base64
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pytest
from PIL import Image

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.checkpoints.table import CHECKPOINTS
from svd_core.engine.engine import Engine, EngineStatus, ModelHandle
from svd_core.events import OnProgress, Progress, Stage
from svd_core.params import VideoParams
from svd_core.types import GenerationResult
from tests.fakes.hub_server import FakeHub
from tests.fakes.tiny_checkpoint import build

if TYPE_CHECKING:
    from tests.fakes.fal_server import FalServer
    from tests.fakes.work import FakeWork

# A quick look at made-up inputs with each change, and a long one with `make test-slow`. A busy
# machine may take any time for an example.
hypothesis.settings.register_profile("quick", max_examples=5, deadline=None)
hypothesis.settings.register_profile("thorough", max_examples=100, deadline=None)
hypothesis.settings.load_profile("quick")

DEADLINE = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--time-budget", type=float, metavar="SECONDS",
        help="skip the tests that have not started by then; the summary names them",
    )  # fmt: skip
    parser.addoption(
        "--shuffle", metavar="SEED",
        help="run the files in another order, so that a time budget skips others each time",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    if (seconds := config.getoption("--time-budget")) is not None:
        config.stash[DEADLINE] = time.monotonic() + seconds


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if seed := config.getoption("--shuffle"):
        names = sorted({item.path for item in items})
        random.Random(seed).shuffle(names)
        items.sort(key=lambda item: names.index(item.path))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if time.monotonic() > item.config.stash.get(DEADLINE, float("inf")):
        item.add_marker(pytest.mark.skip(reason=f"not run, no time left: {item.name}"))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No SVD_ or HF_ variable of the machine reaches a test."""
    for name in list(os.environ):
        if name.startswith(("SVD_", "HF_", "HUGGING_FACE_", "SPACE_", "SPACES_")):
            monkeypatch.delenv(name)


class StillEngine:
    """The photo itself as every frame: an engine without a model, quick and exact."""

    def load(self, on_progress: OnProgress, model: str | None = None) -> ModelHandle:
        return ModelHandle(CHECKPOINTS["svd-nano"], self.generate)

    def generate(
        self, image: Image.Image, params: VideoParams, on_progress: OnProgress
    ) -> GenerationResult:
        on_progress(Progress(stage=Stage.DENOISING, step=1, total=1))
        frames = np.stack([np.asarray(image, dtype=np.uint8)] * (params.num_frames or 14))
        return GenerationResult(frames, params)

    @property
    def status(self) -> EngineStatus:
        nano = CHECKPOINTS["svd-nano"]
        return EngineStatus(
            checkpoint=nano, device="none", state="ready", catalog=ModelCatalog((nano,))
        )


@pytest.fixture
def still_engine() -> Engine:
    return StillEngine()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint with the published file names. Copy it before changing it."""
    return build(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture
def hub(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeHub]:
    """A model hub on loopback, and an empty cache. The client reads its settings when imported,
    so they are set in it; `test_the_environment_names_the_hub` goes the way users go."""
    from huggingface_hub import constants

    with FakeHub(tiny_checkpoint) as fake:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, fake.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", fake.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 64 * 1024)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        yield fake


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator["FalServer"]:
    """The fal API for the tests of one file; it may ask this machine for photos."""
    from tests.fakes.fal_server import fal_server  # brings what other tests need not wait for

    with fal_server(tmp_path_factory.mktemp("fal")) as found:
        yield found


@pytest.fixture(scope="module")
def work(server: "FalServer") -> "FakeWork":
    return server.work


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.fakes.engines import photo

    return photo(tmp_path_factory.mktemp("photo") / "photo.png")


@pytest.fixture(scope="module")
def uri(image: Path) -> str:
    """The same photo as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode()}"


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """So that sums are added up in one order, and small ones are quicker."""
    import torch  # takes a second, which other tests need not wait for

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
