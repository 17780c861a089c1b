"""JavaScript of the page: every file parses, and each one is loaded by a module of the page."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from svd_core.web.page.components import STATIC, script

FILES = sorted(STATIC.glob("*.js"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_script_parses(path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        assert not os.environ.get("REQUIRE_NODE"), "node must be there"
        pytest.skip("no node, which parses JavaScript")
    done = subprocess.run([node, "--check", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_script_is_loaded_and_every_loaded_script_exists() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in STATIC.parent.glob("*.py"))
    assert set(re.findall(r'\bscript\("([\w.]+)"\)', code)) == {path.name for path in FILES}


def test_a_placeholder_of_a_script_is_there_to_be_replaced() -> None:
    """Python replaces these texts; a script that lost its own would keep its default silently."""
    assert "const MAX_BYTES = 0;" in script("size_check.js")
    assert "const SENTENCES = {};" in script("clock.js")
    assert "#ELEM_ID" in script("download.js")
