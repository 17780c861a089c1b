"""What a Space reads, against what the code and the pinned versions say."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from svd_core.checkpoints.table import CHECKPOINTS
from tests.test_layers import FENCES, ROOT

PLATFORM_TORCH = ("2.8.0", "2.9.1", "2.10.0", "2.11.0")
"""What ZeroGPU offered in August 2026; any other torch in requirements.txt is refused there."""

COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


def front_matter() -> dict[str, Any]:
    _, head, _ = (ROOT / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(head)
    return found


def lines(path: str) -> list[str]:
    text = (ROOT / path).read_text(encoding="utf-8")
    return [line.partition("#")[0].strip() for line in text.splitlines()
            if line.partition("#")[0].strip()]  # fmt: skip


def requirements(path: str = "requirements.txt") -> dict[str, Requirement]:
    found = (Requirement(line) for line in lines(path) if not line.startswith("-r "))
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def pinned() -> dict[str, str]:
    pairs = (line.split("==") for line in lines(".ci/constraints.txt"))
    return {canonicalize_name(name): version for name, version in pairs}


def test_the_space_runs_the_gradio_that_is_tested() -> None:
    head = front_matter()
    assert head["sdk"] == "gradio"
    assert head["sdk_version"] == pinned()["gradio"]


def test_the_space_has_a_python_that_the_libraries_take() -> None:
    # A string: without quotes 3.10 is 3.1. Both ZeroGPU and diffusers take only this one.
    assert front_matter()["python_version"] == "3.12"


def test_the_front_matter_is_what_the_platform_accepts() -> None:
    head = front_matter()
    assert len(head["short_description"]) <= 60
    assert {head["colorFrom"], head["colorTo"]} <= COLOURS
    assert (ROOT / head["app_file"]).is_file()
    assert not head["suggested_hardware"].startswith("zero")


def test_the_front_matter_names_the_checkpoint_that_cuda_gets() -> None:
    assert front_matter()["models"] == [CHECKPOINTS["svd-xt"].source]


def test_the_licence_is_the_one_that_lies_here() -> None:
    assert front_matter()["license"] == "apache-2.0"
    text = " ".join((ROOT / "LICENSE").read_text(encoding="utf-8").split())
    assert text.startswith("Apache License Version 2.0, January 2004")
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.mark.parametrize("version", PLATFORM_TORCH)
def test_the_platforms_torch_may_stay(version: str) -> None:
    assert version in requirements()["torch"].specifier


def test_the_platforms_gradio_may_stay() -> None:
    assert front_matter()["sdk_version"] in requirements()["gradio"].specifier


def test_requirements_are_ranges() -> None:
    exact = [line for line in lines("requirements.txt") if "==" in line]
    assert exact == []
    assert "spaces" not in requirements()  # the platform brings it; elsewhere it has no use


def test_constraints_pin_everything_exactly() -> None:
    for line in lines(".ci/constraints.txt"):
        assert re.fullmatch(r"[\w.-]+==[\w.]+", line), line  # no +cpu, no ranges


@pytest.mark.parametrize(
    "path", ["requirements.txt", "requirements-cluster.txt", "tests/requirements.txt"]
)
def test_pinned_versions_are_within_the_ranges(path: str) -> None:
    versions = pinned()
    for name, requirement in requirements(path).items():
        assert versions[name] in requirement.specifier, name


def test_requirements_list_every_library_the_app_imports() -> None:
    imported = {  # training and benchmarks are no part of the app
        library
        for library, places in FENCES.items()
        if not all(place.startswith(("training", "benchmarks")) for place in places)
    }
    for node in ast.walk(ast.parse((ROOT / "app.py").read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        imported |= {name.partition(".")[0] for name in names}
    # starlette is gradio's, spaces the platform's, ray optional, and triton that of torch for CUDA.
    optional = set(requirements("requirements-cluster.txt"))
    own = {"svd_core", "starlette", "spaces", "triton", *optional}
    distributions = packages_distributions()
    for library in imported - own - set(sys.stdlib_module_names):
        names = {canonicalize_name(name) for name in distributions[library]}
        assert names & set(requirements()), f"{library} is not in requirements.txt"


def test_ci_runs_what_a_developer_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o100
    first, rest = script.read_text(encoding="utf-8").splitlines()[-2:]
    assert first == "make test"
    assert rest.startswith("make test-slow TIME_BUDGET=")
