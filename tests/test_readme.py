"""The README: its tables are those of the code, what it names exists, and its examples run."""

import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svd_core.benchmarks import api_load, generate
from svd_core.benchmarks.gpu.command import parser as gpu
from svd_core.benchmarks.vs_diffusers import contest
from svd_core.cli.args import make_parser
from svd_core.media.recipe import Recipe
from svd_core.media.video import read_frames
from svd_core.settings import Settings
from tests.readme import README, ROOT, rewritten

TEXT = README.read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```(sh|python)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
MODEL = "svd-nano"


def test_tables_are_those_of_the_code() -> None:
    assert rewritten(TEXT) == TEXT, "run: python -m tests.readme"


def test_a_table_that_is_not_the_codes_is_seen() -> None:
    assert rewritten(TEXT.replace("1 to 255", "1 to 256")) == TEXT
    with pytest.raises(ValueError, match="no part settings"):
        rewritten(TEXT.replace("<!-- end settings -->", ""))


def test_the_map_shows_every_visible_name_of_the_top_level() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git checkout, so nothing says which files belong to the project")
    tracked = {name.partition("/")[0] for name in listed.stdout.splitlines()}
    table = TEXT[TEXT.index("| file | what it is for |") :]
    named = set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE))
    assert named == {name for name in tracked if not name.startswith(".")}


def test_what_is_named_exists() -> None:
    linked = re.findall(r"\]\((?!https?://)([^)#]+)", TEXT)
    mentioned = re.findall(r"`((?:svd_core|tests|assets|\.ci)/[\w./-]+)`", TEXT)
    assert [name for name in {*linked, *mentioned} if not (ROOT / name).exists()] == []
    parsers = (make_parser(), api_load._parser(), contest.parser(), generate._parser(), gpu())
    options = {name for one in parsers for action in one._actions for name in action.option_strings}
    assert set(re.findall(r"(?<=[ `])--[a-z-]{2,}", TEXT)) <= options
    variables = {f"SVD_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"SVD_[A-Z_]+\b", TEXT)) - {"SVD_"} <= variables
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z]+)\b", TEXT)) & {"run", "test", "lint", "bench"} <= targets


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the reader stands: their photo is here, the program is on the path."""
    folder = tmp_path_factory.mktemp("reader")
    across = np.tile(np.linspace(0, 255, 640, dtype=np.uint8), (360, 1))
    Image.fromarray(np.dstack([across, across[:, ::-1], across // 2])).save(folder / "photo.jpg")
    return folder


def environ() -> dict[str, str]:
    own = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": own, "PYTHONPATH": str(ROOT), "SVD_MODEL": MODEL}


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=environ(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_shell_examples_run(folder: Path) -> None:
    (code,) = [code for kind, code in SNIPPETS if kind == "sh"]
    for line in code.splitlines():
        assert run(shlex.split(line), folder)
    first, again = folder / "out.mp4", folder / "again.mp4"
    assert Recipe.read(first).params == Recipe.read(again).params
    assert np.array_equal(read_frames(first), read_frames(again))


@pytest.mark.slow
def test_the_python_example_runs(folder: Path) -> None:
    (code,) = [code for kind, code in SNIPPETS if kind == "python" and "7860" not in code]
    told = run([sys.executable, "-c", code], folder).splitlines()
    assert any("DENOISING" in line for line in told)
    path, num_frames, seconds = told[-1].split()
    assert len(read_frames(folder / path)) == int(num_frames)
    assert 1 < float(seconds) < 5


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app on a free port, as `make run` starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {
        "GRADIO_SERVER_PORT": str(port),
        "SVD_DATA_DIR": str(tmp_path_factory.mktemp("data")),
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    app = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environ() | own)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            assert app.poll() is None, "app.py ended by itself"
            try:
                with urllib.request.urlopen(url, timeout=5):
                    break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        app.terminate()
        app.wait(timeout=30)


@pytest.mark.slow
def test_the_client_example_runs(folder: Path, page: str) -> None:
    (code,) = [code for kind, code in SNIPPETS if kind == "python" and "gradio_client" in code]
    code = code.replace("http://127.0.0.1:7860", page)
    told = run([sys.executable, "-c", code], folder).splitlines()[-1]
    path, seed, summary = told.split(maxsplit=2)
    assert Recipe.read(Path(path)).params.seed == int(seed)
    assert Recipe.read(Path(path)).params.motion_bucket_id == 80
    assert summary
