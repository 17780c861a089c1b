"""Documents: generated parts are current, links and names exist, and every example runs."""

import ast
import os
import re
import shlex
import shutil
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

from svd_core.benchmarks.__main__ import BENCHMARKS
from svd_core.cli.args import make_parser
from svd_core.media.recipe import Recipe
from svd_core.media.video import read_frames
from svd_core.settings import Settings
from svd_core.web.snippets import BASE
from tests.readme import (
    ARCHITECTURE,
    HTTP_API,
    README,
    ROOT,
    documents,
    generated,
    rewritten,
)

PAGE = ROOT / "svd_core" / "web" / "README.md"
DOCUMENTS = documents()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def all_text() -> str:
    return "\n".join(map(read, DOCUMENTS))


def blocks(path: Path, language: str) -> list[str]:
    """Code of `language` in a document."""
    return [code for kind, code in BLOCK.findall(read(path)) if kind == language]


def block(path: Path, language: str) -> str:
    (code,) = blocks(path, language)
    return code


# -- generated parts ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", generated(), ids=lambda path: str(path.relative_to(ROOT)))
def test_generated_parts_are_current(path: Path) -> None:
    assert rewritten(read(path), generated()[path]) == read(path), "run: python -m tests.readme"


def test_an_outdated_part_is_rewritten() -> None:
    text, parts = read(ARCHITECTURE), generated()[ARCHITECTURE]
    assert rewritten(text.replace("1 to 255", "1 to 256"), parts) == text
    with pytest.raises(ValueError, match="no part settings"):
        rewritten(text.replace("<!-- end settings -->", ""), parts)


def test_the_readme_is_short() -> None:
    text = read(README)
    assert len(text.encode()) <= 12_000
    assert len(text.splitlines()) <= 200


def test_the_readme_has_some_settings_with_their_defaults() -> None:
    row = re.compile(r"^\| (`SVD_\w+`) \| (.*?) \|", re.MULTILINE)
    short, full = row.findall(read(README)), row.findall(read(ARCHITECTURE))
    assert len(full) == len(Settings.model_fields)
    assert len(short) == 8
    assert set(short) <= set(full)


# -- links and names ------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    headings = HEADING.findall(BLOCK.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path: Path, text: str) -> list[str]:
    """Links of a document that lead to no file, or to no heading of it."""
    broken = []
    for link in LINK.findall(BLOCK.sub("", text)):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name
        if target.exists() and (not anchor or anchor in anchors(read(target) if name else text)):
            continue
        broken.append(link)
    return broken


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(path: Path) -> None:
    assert broken_links(path, read(path)) == []


def test_a_broken_link_is_found() -> None:
    links = ("LICENSE", "GONE.md", "CONTRIBUTING.md#words", "CONTRIBUTING.md#gone", "#jobs", "#no")
    text = "# Jobs\n" + " ".join(f"[text]({link})" for link in links)
    assert broken_links(README, text) == ["GONE.md", "CONTRIBUTING.md#gone", "#no"]


def test_every_package_document_is_linked() -> None:
    linked = {
        (path.parent / link.partition("#")[0]).resolve()
        for path in DOCUMENTS
        for link in LINK.findall(read(path))
    }
    assert [path for path in DOCUMENTS if path != README and path not in linked] == []


def test_the_tree_shows_what_exists() -> None:
    lines = block(README, "text").splitlines()
    assert len(lines) <= 12
    names = [line.split()[0] for line in lines]
    folder = ROOT / names[0]
    shown = [ROOT / name if (ROOT / name).exists() else folder / name for name in names]
    assert [path for path in shown if not path.exists()] == []
    packages = {path.name for path in folder.iterdir() if (path / "__init__.py").exists()}
    assert packages <= {name.rstrip("/") for name in names}


def test_named_files_exist() -> None:
    named = re.findall(r"`((?:svd_core|tests|assets|\.ci)/[\w./-]+)`", all_text())
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_glossary_is_in_order_and_names_what_exists() -> None:
    table = read(ARCHITECTURE).partition("## Glossary")[2].split("\n\n")[1]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    terms = [row[0].strip("`").lower() for row in rows]
    assert len(terms) >= 60
    assert terms == sorted(terms)
    assert [row[2] for row in rows if not (ROOT / "svd_core" / row[2].strip("`")).exists()] == []


FOREIGN = re.compile(r"^(?:export .*\n(?:    .*\n)*)?(?:ray|docker) (?:.*\\\n)*.*$", re.MULTILINE)
"""Commands of other programs. Those of Ray are generated, and the tests of the cluster run them."""

FOREIGN_OPTION = re.compile(r"`(?:docker|--(?:node-manager|object-manager|\w+-worker)-port)[^`]*`")


def options() -> set[str]:
    """Options of the command line, the benchmarks and the training."""
    known = {name for action in make_parser()._actions for name in action.option_strings}
    for folder in ("benchmarks", "training"):
        for path in (ROOT / "svd_core" / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(read(path))):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".add_argument"):
                    known |= {each.value for each in node.args if isinstance(each, ast.Constant)}
    return known


def test_named_options_settings_and_targets_exist() -> None:
    text = all_text()
    own = FOREIGN_OPTION.sub("", FOREIGN.sub("", text))
    named = set(re.findall(r"(?<=[ `])--[a-z-]{2,}", own))
    assert "--budget" in named
    assert named <= options() | {"--help"}
    variables = {f"SVD_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"SVD_[A-Z_]+\b", text)) - {"SVD_"} <= variables
    targets = set(re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets


def test_named_commands_exist() -> None:
    text = all_text()
    for module in set(re.findall(r"python -m ((?:svd_core|tests)[\w.]*)", text)):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    named = set(re.findall(r"python -m svd_core\.benchmarks ([a-z]+)", text))
    assert named == set(BENCHMARKS)


# -- examples -------------------------------------------------------------------------------------

EXECUTED = {
    README: ["bash", "sh", "python"],
    PAGE: ["python"],
    HTTP_API: ["bash", "js", "python"],  # by tests/api/test_snippets.py
}
"""Examples by document. Commands in `console` blocks are only checked for existence."""


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_example_is_executed_by_a_test(path: Path) -> None:
    languages = [kind for kind, _ in BLOCK.findall(read(path)) if kind not in ("console", "text")]
    assert sorted(languages) == sorted(EXECUTED.get(path, []))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working directory of the reader, with their photo."""
    folder = tmp_path_factory.mktemp("reader")
    across = np.tile(np.linspace(0, 255, 640, dtype=np.uint8), (360, 1))
    Image.fromarray(np.dstack([across, across[:, ::-1], across // 2])).save(folder / "photo.jpg")
    return folder


@pytest.fixture(scope="module")
def environ(tiny_checkpoint: Path) -> dict[str, str]:
    """The examples name no model, unless they need svd-nano; so a tiny one makes their videos."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {"PATH": path, "PYTHONPATH": str(ROOT), "SVD_MODEL": str(tiny_checkpoint)}
    return {name: value for name, value in os.environ.items() if "proxy" not in name.lower()} | (
        variables
    )


def run(command: list[str], folder: Path, environ: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_shell_examples_run(folder: Path, environ: dict[str, str]) -> None:
    for line in block(README, "sh").splitlines():
        command = shlex.split(line)
        if "--from-recipe" in command:  # which needs a name for a checkpoint outside the table
            command += ["--model", environ["SVD_MODEL"]]
        assert run(command, folder, environ)
    first, again = folder / "out.mp4", folder / "again.mp4"
    assert Recipe.read(first).params == Recipe.read(again).params
    assert np.array_equal(read_frames(first), read_frames(again))


@pytest.mark.parametrize("model", ["tiny", pytest.param("svd-nano", marks=pytest.mark.slow)])
def test_the_python_example_runs(folder: Path, environ: dict[str, str], model: str) -> None:
    place = environ["SVD_MODEL"] if model == "tiny" else model
    code = block(README, "python").replace('"svd-nano"', repr(place))
    lines = run([sys.executable, "-c", code], folder, environ).splitlines()
    assert any("DENOISING" in line for line in lines)
    path, num_frames, seconds = lines[-1].split()
    assert len(read_frames(folder / path)) == int(num_frames)
    assert 0 < float(seconds) < 5
    assert Recipe.read(folder / path).model == model


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]) -> Iterator[str]:
    """The app on a free port, as `make run` starts it; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {
        "GRADIO_SERVER_PORT": str(port),
        "SVD_DATA_DIR": str(tmp_path_factory.mktemp("data")),
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    app = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environ | variables)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            assert app.poll() is None, "app.py ended early"
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
def test_the_gradio_client_example_runs(folder: Path, page: str, environ: dict[str, str]) -> None:
    code = block(PAGE, "python").replace("http://127.0.0.1:7860", page)
    line = run([sys.executable, "-c", code], folder, environ).splitlines()[-1]
    path, seed, summary = line.split(maxsplit=2)
    assert Recipe.read(Path(path)).params.seed == int(seed)
    assert Recipe.read(Path(path)).params.motion_bucket_id == 80
    assert summary


def test_the_curl_example_runs(folder: Path, page: str, environ: dict[str, str]) -> None:
    if not shutil.which("curl") or not shutil.which("bash"):
        pytest.skip("no bash or curl")
    code = block(README, "bash").replace(BASE, f"{page}/fal")
    answer = run(["bash", "-c", code], folder, environ | {"FAL_KEY": "any"})
    assert '"video"' in answer
