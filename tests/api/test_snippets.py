"""Code snippets that the page, the docs and the documents show: they run unchanged."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from svd_core.params import PARAMETERS, VideoParams
from svd_core.web.fal.models import read_input
from svd_core.web.snippets import BASE, Snippets, snippets, values_of
from tests.api.test_node_clients import node  # noqa: F401 - a fixture
from tests.fakes.engines import photo
from tests.fakes.fal_server import KEY, FalServer
from tests.fakes.work import FakeWork
from tests.readme import HTTP_API

SHOWN = re.findall(r"<!-- api -->\n(.*?)<!-- end api -->", HTTP_API.read_text(), re.DOTALL)[0]
FROM_DOCUMENT = Snippets(*re.findall(r"^```\w+\n(.*?)^```$", SHOWN, re.MULTILINE | re.DOTALL))

PARAMS = VideoParams(
    seed=5, motion_bucket_id=90, noise_aug_strength=0.5, fps=12, playback_fps=24, num_frames=20,
    fit="pad", focus_x=0.25,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the reader stands, with a photo too large for a command line."""
    folder = tmp_path_factory.mktemp("reader")
    photo(folder / "photo.png", (900, 900))
    (folder / "photo.png").rename(folder / "photo.jpg")
    with (folder / "photo.jpg").open("ab") as file:
        file.write(os.urandom(200_000))
    return folder


def run(folder: Path, command: list[str], base: str, code: str) -> str:
    clean = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        [*command, code.replace(BASE, base)], cwd=folder,
        env=clean | {"FAL_KEY": KEY}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(params=["document", "settings"])
def shown(request: pytest.FixtureRequest) -> Snippets:
    return FROM_DOCUMENT if request.param == "document" else snippets(values_of(PARAMS))


def check(server: FalServer, shown: Snippets, url: str, seed: int) -> None:
    """A video came, and what is shown in the code reached the model."""
    assert httpx.get(url).content[4:8] == b"ftyp"
    assert isinstance(server.work, FakeWork)
    params = server.work.requests[-1].params
    assert params.seed == seed
    if shown is FROM_DOCUMENT:
        assert params == VideoParams(seed=seed, fps=25, motion_bucket_id=80)
    else:
        assert params == PARAMS


def test_curl(server: FalServer, folder: Path, shown: Snippets) -> None:
    if not shutil.which("curl") or not shutil.which("bash"):
        pytest.skip("no bash or curl")
    answer = json.loads(run(folder, ["bash", "-c"], server.url, shown.curl))
    check(server, shown, answer["video"]["url"], answer["seed"])


def test_python(server: FalServer, folder: Path, shown: Snippets) -> None:
    url, seed = run(folder, [sys.executable, "-c"], server.url, shown.python).split()
    check(server, shown, url, int(seed))


def test_javascript(node: Path, server: FalServer, folder: Path, shown: Snippets) -> None:  # noqa: F811
    modules = folder / "node_modules"
    if not modules.exists():
        modules.symlink_to(node / "node_modules")
    command = ["node", "--input-type=module", "--eval"]
    url, seed = run(folder, command, server.url, shown.javascript).split()
    check(server, shown, url, int(seed))


def test_the_document_shows_what_the_module_says() -> None:
    assert snippets({"motion_bucket_id": 80}) == FROM_DOCUMENT


SEEDS = st.integers(0, 2**32 - 1)
ANY = st.fixed_dictionaries(
    {"seed": SEEDS},
    optional={
        name: st.sampled_from(each.words)
        if each.words
        else st.integers(int(each.minimum), int(each.maximum))
        if each.integer
        else st.floats(each.minimum, each.maximum)
        for name, each in PARAMETERS.items()
        if name not in ("seed", "model")
    },
)
"""Settings as the page may have them, each one given or left as it is."""


@given(ANY)
@example({"seed": 0, "fps": 7})
@example({"seed": 1, "fps": 1, "playback_fps": 2})
@example({"seed": 1, "fps": 25, "playback_fps": 5})
def test_the_values_shown_give_the_same_video(values: dict[str, Any]) -> None:
    params = VideoParams(**values)
    body = json.loads(json.dumps({"image_url": "https://example.com/a.png", **values_of(params)}))
    assert read_input(body)[1] == params


def test_only_what_differs_from_the_usual_is_shown() -> None:
    assert values_of(VideoParams(seed=3, fps=25)) == {"seed": 3}
    assert values_of(VideoParams(seed=3, fps=25, motion_bucket_id=128)) == {
        "seed": 3,
        "motion_bucket_id": 128,
    }


def test_a_seed_of_null_is_drawn() -> None:
    url, params = read_input({"image_url": "https://example.com/a.png", "seed": None})
    assert url == "https://example.com/a.png"
    assert params == VideoParams(seed=params.seed, fps=25)
