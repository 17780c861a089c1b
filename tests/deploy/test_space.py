"""`make space`: a Space with what the program needs, sent in the way that the hub requires."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.hub_server import TOKEN, FakeHub
from tests.test_app import first_line, started

ROOT = Path(__file__).parents[2]
SPACE = "ann/studio"


@pytest.fixture
def space_hub(tmp_path: Path) -> Iterator[FakeHub]:
    (tmp_path / "hub").mkdir()
    with FakeHub(tmp_path / "hub") as found:
        yield found


def make_space(hub: FakeHub, name: str = SPACE, **environ: str) -> subprocess.CompletedProcess[str]:
    """The line of the Makefile. Its upload of large files needs no service but the hub's own."""
    own = {
        "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "deploy/space.py", *filter(None, [name])],
        cwd=ROOT, env=os.environ | own | environ, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_a_space_is_created_and_updated(space_hub: FakeHub, tmp_path: Path) -> None:
    done = make_space(space_hub)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{space_hub.url}/spaces/{SPACE} is being built")
    sent = space_hub.spaces.files[SPACE]
    for name in ("app.py", "README.md", "requirements.txt", "svd_core/web/page/static/page.css"):
        assert sent[name] == (ROOT / name).read_bytes()
    weights = "assets/svd-nano/unet/diffusion_pytorch_model.safetensors"
    assert sent[weights] == (ROOT / weights).read_bytes()
    assert {weights, "assets/examples/cat.mp4", "assets/examples/cat.jpg"} <= space_hub.spaces.lfs
    assert not any(
        name.startswith(("tests/", "deploy/", ".ci/", "svd_core/training/", "svd_core/cli/"))
        or name.endswith((".pyc", ".pyi", ".png"))
        for name in sent
    )
    sent["old.py"] = b"no longer here"
    done = make_space(space_hub)
    assert (done.returncode, done.stderr) == (0, "")
    assert "old.py" not in sent
    assert ".gitattributes" in sent
    assert space_hub.spaces.commits == ["Update the program"] * 2


@pytest.mark.slow
def test_the_program_starts_from_what_was_sent(tmp_path: Path) -> None:
    code = "import space, pathlib, sys; space.stage(pathlib.Path(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "space")], check=True, cwd=ROOT / "deploy"
    )
    environ = {
        "SVD_DATA_DIR": str(tmp_path / "data"), "SVD_MODEL": "svd-nano", "GRADIO_SERVER_PORT": "0",
        "PYTHONPATH": "",
    }  # fmt: skip
    with started(str(tmp_path / "space" / "app.py"), **environ) as process:
        assert first_line(process, "Serving ")


@pytest.mark.parametrize(
    ("name", "environ", "sentence"),
    [
        ("", {}, "Name the Space as in: make space SPACE=owner/name"),
        ("studio", {}, "Name the Space as in"),
        ("ann/a b", {}, "The Space ann/a b is not updated: "),
        (SPACE, {"HF_TOKEN": "hf_no"}, f"The Space {SPACE} is not updated: the token is missing"),
        ("bob/studio", {}, "The Space bob/studio is not updated: the token may not write there"),
        (SPACE, {"HF_ENDPOINT": "http://127.0.0.1:9"}, f"The Space {SPACE} is not updated: "),
        (SPACE, {"ALL_PROXY": "socks4://127.0.0.1:9"}, "ALL_PROXY cannot be used"),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    space_hub: FakeHub, name: str, environ: dict[str, str], sentence: str
) -> None:
    done = make_space(space_hub, name, **environ)
    assert done.returncode == 1
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
