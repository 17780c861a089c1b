"""Import rules: modules import from rows above their own, or within their row without a cycle.

A library is imported only where its fence allows. Each complaint names the module and the line.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ROWS = (
    (
        *("errors", "events", "event_stream", "messages", "params", "proxies", "settings"),
        "types",
    ),
    ("media",),
    ("storage", "temp_folder", "extend", "database", "owner_lock"),
    ("checkpoints",),
    ("engine",),
    ("generate",),
    ("jobs",),
    ("cluster",),
    ("web",),
    ("cli", "__main__"),
    ("benchmarks",),
    ("training",),  # last, so that nothing of the app can import it
)

# Library: modules and packages that may import it. A new one is added here and to requirements.txt.
FENCES: Mapping[str, tuple[str, ...]] = {
    "numpy": ("types", "media", "extend", "engine", "benchmarks", "training"),
    "pydantic": ("params", "settings", "media", "web.fal", "training.dataset"),
    "platformdirs": ("settings",),
    "PIL": ("media", "extend", "engine", "benchmarks", "training"),
    "pillow_heif": ("media.image_decoding",),
    "imageio_ffmpeg": ("media.ffmpeg",),
    "triton": ("engine.optimizations.norm_kernels",),
    "torch": ("engine", "benchmarks", "training"),
    "diffusers": ("engine", "benchmarks", "training"),
    "accelerate": ("engine.optimizations",),
    "transformers": ("engine", "benchmarks", "training"),
    "safetensors": ("engine", "benchmarks", "training"),
    "huggingface_hub": ("checkpoints.hub", "checkpoints.hub_errors"),
    "gradio": ("web",),
    "spaces": ("web.zero_gpu",),
    "starlette": ("web",),
    "fastapi": ("web",),
    "httpx": ("web",),
    "uvicorn": ("web",),
    "anyio": ("web",),
    "cryptography": ("web.fal",),
    "rich": ("cli.output",),
    "cv2": ("training.clip_metrics",),
    "sqlalchemy": ("database", "owner_lock", "jobs"),
    "filelock": ("owner_lock",),
    "ray": ("cluster",),
    "playwright": ("benchmarks.page",),
}

Sources = Mapping[str, str]
"""Python source by module name below svd_core, e.g. `web.page.layout`; "" is svd_core itself."""


def sources() -> dict[str, str]:
    package = ROOT / "svd_core"
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path.read_text(encoding="utf-8")
    return found


def imports(name: str, code: Sources) -> Iterator[tuple[int, str]]:
    """(line, full name) of everything `name` imports, inside functions too."""
    for node in ast.walk(ast.parse(code[name])):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            whole = f"{'.' * node.level}{node.module or ''}"
            for alias in node.names:
                below = f"{whole}.{alias.name}".removeprefix("svd_core.")
                # Inside, a public name is imported from its module, where its row can be seen.
                public = whole == "svd_core" and alias.name != "__version__"
                yield node.lineno, f"svd_core.{below}" if below in code or public else whole


def belongs(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def row(name: str) -> int | None:
    return next((index for index, places in enumerate(ROWS) if belongs(name, places)), None)


def complaints(code: Sources) -> list[str]:
    """One line for each import that breaks a rule; empty when all is well."""
    found = []
    graph: dict[str, set[str]] = {}
    for name in sorted(set(code) - {""}):  # svd_core itself only exports, by its own test
        if row(name) is None:
            found.append(f"{name}: stands in no row of tests/test_layers.py")
            continue
        for line, target in imports(name, code):
            inner = target.removeprefix("svd_core.")
            if inner != target:
                graph.setdefault(name, set()).add(inner)
            found += [f"{name}:{line}: {why}" for why in judged(name, target, code)]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append("a circle: " + " -> ".join(error.args[1]))
    return found


def judged(name: str, target: str, code: Sources) -> Iterator[str]:
    inner = target.removeprefix("svd_core.")
    library = target.partition(".")[0]
    if target.startswith("."):
        yield f"imports {target}; write the full name"
    elif inner != target:
        own, other = row(name), row(inner)
        if inner not in code or own is None or other is None:
            yield f"imports {inner}, which is no module"
        elif other > own:
            yield f"imports {inner}, which stands below it"
    elif library not in ("svd_core", *sys.stdlib_module_names) and not belongs(
        name, FENCES.get(library, ())
    ):
        yield f"imports {library}, which its fence in tests/test_layers.py does not allow there"


def test_imports_point_upwards() -> None:
    assert complaints(sources()) == []


def test_rows_and_fences_name_what_exists() -> None:
    names = set(sources())
    listed = {place for places in (*ROWS, *FENCES.values()) for place in places}
    assert listed <= names


def test_app_is_imported_by_nobody() -> None:
    found = {name for name, code in sources().items() for _, to in imports(name, {name: code})
             if to.partition(".")[0] in ("app", "tests")}  # fmt: skip
    assert found == set()


@pytest.mark.parametrize(
    ("name", "code", "culprit"),
    [
        ("params", "import svd_core.engine", "params:1: imports engine, which stands below"),
        ("params", "from svd_core import engine", "params:1: imports engine, which stands below"),
        ("params", "from svd_core import SvdEngine", "params:1: imports SvdEngine, which is no"),
        ("engine", "def f():\n    from svd_core.web import page", "engine:2: imports web"),
        ("web.page", "from svd_core.training.train import main", "web.page:1: imports training"),
        ("generate", "import torch.nn", "generate:1: imports torch"),
        ("web.page", "from torch import Tensor", "web.page:1: imports torch"),
        ("engine", "import gradio as gr", "engine:1: imports gradio"),
        ("engine", "import tensorflow", "engine:1: imports tensorflow"),
        ("engine", "from . import params", "engine:1: imports .; write the full name"),
        ("engine", "from svd_core.gone import it", "engine:1: imports gone, which is no module"),
        ("oddity", "import os", "oddity: stands in no row"),
        ("errors", "from svd_core.params import LIMITS", "a circle: "),
    ],
)
def test_a_broken_rule_is_named(name: str, code: str, culprit: str) -> None:
    whole: dict[str, str] = {
        "": "", "errors": "", "params": "from svd_core.errors import SvdError", "engine": "",
        "generate": "", "web": "", "web.page": "", "training": "", "training.train": "",
    }  # fmt: skip
    assert complaints(whole) == []
    if name == "params":
        code = f"{code}\n{whole[name]}"
    (found,) = complaints(whole | {name: code})
    assert culprit in found


@pytest.mark.parametrize(
    "module", ["generate", "jobs", "cluster.config", "cli.main", "benchmarks.generate"]
)
def test_the_core_loads_no_heavy_library(module: str) -> None:
    code = f"import sys, svd_core.{module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    heavy = {"torch", "diffusers", "transformers", "gradio", "ray"}
    assert heavy & set(done.stdout.split()) == set()


@pytest.mark.parametrize(("package", "other"), [("web.page", "web.fal"), ("web.fal", "web.page")])
def test_page_and_api_do_not_import_each_other(package: str, other: str) -> None:
    code = sources()
    assert [
        f"{name}:{line}: imports {target}"
        for name in code
        if belongs(name, (package,))
        for line, target in imports(name, code)
        if belongs(target.removeprefix("svd_core."), (other,))
    ] == []
