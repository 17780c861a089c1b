"""`deploy/svd.service`: systemd understands each line, and the program is where it says."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SERVICE = Path(__file__).parents[2] / "deploy" / "svd.service"


def test_systemd_understands_the_service(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd")
    text = SERVICE.read_text(encoding="utf-8")
    for old, new in (
        ("/opt/svd-studio/.venv/bin/python", sys.executable),
        ("WorkingDirectory=/opt/svd-studio", f"WorkingDirectory={tmp_path}"),
    ):
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "svd.service"
    path.write_text(text, encoding="utf-8")
    done = subprocess.run([program, "verify", path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
