"""Units of systemd: it understands each line, and the program is where they say."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd")
    units = sorted(DEPLOY.glob("*.service"))
    assert [path.name for path in units] == ["svd-ray.service", "svd.service"]
    for path in units:
        text = path.read_text(encoding="utf-8")
        assert "ExecStart=/opt/svd-studio/.venv/bin/" in text
        text = text.replace("WorkingDirectory=/opt/svd-studio", f"WorkingDirectory={tmp_path}")
        for name in ("python", "ray"):
            text = text.replace(f"/opt/svd-studio/.venv/bin/{name} ", f"{sys.executable} ")
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    paths = [tmp_path / path.name for path in units]
    done = subprocess.run([program, "verify", *paths], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
