"""Faults seen in other SVD programs that no single module answers for.

Those of one module are tested with it; their docstrings say "Defect n".
"""

import ast
import re
from pathlib import Path

import pytest

from svd_core.params import VideoParams, draw_seed
from tests.readme import documents

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "svd_core").rglob("*.py"), ROOT / "app.py"])
TEXTS = [
    *documents(),
    ROOT / "Makefile",
    *(ROOT / "tests").rglob("*.py"),
    *ROOT.glob(".ci/*"),
]
SECRET = re.compile(
    r"\bhf_[A-Za-z0-9]{30,}|\bsk-[A-Za-z0-9]{30,}|\bgh[pousr]_[A-Za-z0-9]{30,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b"
)


def test_random_seeds_are_random_over_their_whole_range() -> None:
    """Defect 8: `10^10` as a limit is XOR in Python; that program's random seed is always 0."""
    seeds = {draw_seed() for _ in range(200)}
    assert len(seeds) > 195
    assert max(seeds) > 2**31 > 2**30 > min(seeds)
    assert VideoParams().seed != VideoParams().seed


def state_of_a_module(source: str) -> list[str]:
    """Names a module rebinds or keeps in lower case at its top level: state that users share."""
    tree = ast.parse(source)
    found = [name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names]
    for node in tree.body:
        if isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            found += [name for name in names if name.islower() and name.strip("_") == name != "log"]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_holds_what_one_user_chose(path: Path) -> None:
    """Defect 17: choices in a module's globals; visitors overwrite each other's settings."""
    assert state_of_a_module(path.read_text()) == []


def test_shared_state_would_be_noticed() -> None:
    assert state_of_a_module("camera = 'left'") == ["camera"]
    assert state_of_a_module("X = 1\ndef f():\n    global X\n    X = 2") == ["X"]
    assert state_of_a_module("LIMITS = {}\nlog = print\nSize = tuple") == []


def test_no_secret_is_committed() -> None:
    """Defect 18: an API token in the source of a public Space."""
    for path in [*SOURCES, *TEXTS]:
        text, name = path.read_text(), path.relative_to(ROOT)
        assert not SECRET.search(text), f"{name} holds something that looks like a secret"


def test_secrets_would_be_noticed() -> None:
    assert SECRET.search("token = 'hf_" + "a1" * 17 + "'")
    assert not SECRET.search("hf_hub_download and HF_TOKEN are fine")
