"""Public API: the names that `svd_core` exports, and what importing them loads."""

import subprocess
import sys
from pathlib import Path

import pytest

import svd_core

ROOT = Path(__file__).parent.parent.parent
HEAVY = {"torch", "diffusers", "transformers", "gradio"}


def run(code: str) -> str:
    """Output of `code` in a fresh interpreter."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_exported_names() -> None:
    assert svd_core.__all__ == [
        "Cancelled",
        "Progress",
        "ResultStore",
        "Stage",
        "SvdEngine",
        "SvdError",
        "Video",
        "VideoParams",
        "VideoRequest",
        "__version__",
        "generate",
    ]
    assert set(svd_core.__all__) <= set(dir(svd_core))


def test_each_name_is_the_object_of_its_module() -> None:
    from svd_core.engine.engine import SvdEngine
    from svd_core.errors import Cancelled, SvdError
    from svd_core.events import Progress, Stage, Video
    from svd_core.generate import generate
    from svd_core.params import VideoParams, VideoRequest
    from svd_core.storage import ResultStore

    objects = [Cancelled, Progress, ResultStore, Stage, SvdEngine, SvdError, Video, VideoParams]
    objects += [VideoRequest, svd_core.__version__, generate]
    assert [getattr(svd_core, name) for name in svd_core.__all__] == objects


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'svd_core' has no attribute 'Svd'"):
        _ = svd_core.Svd  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="cannot import name 'Svd'"):
        exec("from svd_core import Svd")  # noqa: S102


def test_importing_the_package_loads_no_other_module() -> None:
    code = "import sys; before = {*sys.modules}; import svd_core; print(*{*sys.modules} - before)"
    loaded = run(code).split()
    assert [name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names] == [
        "svd_core"
    ]


def test_importing_the_public_names_loads_no_heavy_library() -> None:
    code = "from svd_core import *; import sys; print(*sys.modules)"
    assert HEAVY & set(run(code).split()) == set()


@pytest.mark.parametrize(
    "imports",
    [
        "import svd_core",
        "import svd_core.generate",
        "import svd_core.cli.main",  # imports `svd_core.generate` on its way
        "from svd_core import generate",
        "from svd_core.generate import generate",
    ],
)
def test_generate_is_the_function_in_every_order_of_imports(imports: str) -> None:
    code = f"""{imports}
import importlib, sys, types, svd_core
from svd_core import generate
module = importlib.import_module("svd_core.generate")
assert isinstance(module, types.ModuleType) and module is sys.modules["svd_core.generate"]
assert isinstance(generate, types.FunctionType)
assert generate is svd_core.generate is module.generate
"""
    run(code)
