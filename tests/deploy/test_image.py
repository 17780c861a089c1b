"""`deploy/Dockerfile`: what is copied, how it is started, and its health check."""

import os
import re
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from svd_core.settings import Settings
from svd_core.web.fal.auth import NO_KEYS
from svd_core.web.listener import ListenAddress
from tests.test_app import ready, settings, started
from tests.web.test_listener import has_ipv6

__all__ = ["settings"]

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
LINES = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()


def arguments(instruction: str) -> list[str]:
    """The words after each line of the Dockerfile that begins with `instruction`."""
    found = [line.split()[1:] for line in LINES if line.startswith(f"{instruction} ")]
    return [word for words in found for word in words]


def environ() -> dict[str, str]:
    return dict(word.split("=", 1) for word in arguments("ENV"))


def copied() -> set[str]:
    found = [line.split()[1:-1] for line in LINES if line.startswith("COPY ")]
    return {name for names in found for name in names}


def test_the_image_has_what_the_program_needs() -> None:
    assert {"app.py", "assets", "svd_core", "deploy/server.sh", "deploy/health.py"} <= copied()
    assert {"requirements.txt", "requirements-cluster.txt"} <= copied()
    assert [name for name in copied() if not (ROOT / name).exists()] == []
    assert (DEPLOY / "server.sh").stat().st_mode & 0o111


def test_no_other_file_is_sent_to_be_built() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied()


def test_it_listens_for_other_machines_as_a_user_who_can_write_only_the_data() -> None:
    found = Settings.from_env({k: v for k, v in environ().items() if k.startswith("SVD_")})
    assert found.data_dir.is_absolute()
    assert arguments("VOLUME") == [str(found.data_dir)]
    assert Path(environ()["HF_HOME"]).is_relative_to(found.data_dir)
    address = ListenAddress.from_env(environ())
    assert (address.host, arguments("EXPOSE")) == ("0.0.0.0", [str(address.port)])
    (user,) = arguments("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "Kubernetes knows only numbers as not root"
    assert not any("--chown" in line for line in LINES)


def health() -> dict[str, Any]:
    return runpy.run_path(str(DEPLOY / "health.py"))


@pytest.mark.parametrize(
    ("command", "serves"),
    [
        (["python", "app.py"], True),
        (["/opt/venv/bin/python", "app.py"], True),
        (["docker-init", "--", "python", "app.py"], False),  # its child is looked at as well
        (["/opt/venv/bin/python", "/opt/venv/bin/ray", "start", "--block"], False),
        (["/bin/sh", "deploy/server.sh"], False),
        ([], False),
    ],
)
def test_only_a_container_with_the_server_is_checked(
    tmp_path: Path, command: list[str], serves: bool
) -> None:
    process = tmp_path / "1"
    process.mkdir()
    (tmp_path / "self").mkdir()
    (process / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in command))
    has_server: Callable[[Path], bool] = health()["has_server"]
    assert has_server(tmp_path) is serves


def check(environ: Mapping[str, str]) -> str | None:
    problem: Callable[[Mapping[str, str]], str | None] = health()["problem"]
    return problem(environ)


def test_a_server_that_does_not_answer_is_not_healthy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # it does not listen
        port = taken.getsockname()[1]
        said = check({"GRADIO_SERVER_PORT": str(port), "HTTP_PROXY": "http://127.0.0.1:9"})
    assert said is not None
    assert f"port {port} does not answer" in said
    assert "GRADIO_SERVER_PORT" in (check({"GRADIO_SERVER_PORT": "many"}) or "")


@pytest.mark.parametrize(
    "own",
    [
        pytest.param({}, id="plain"),
        pytest.param({"GRADIO_SERVER_NAME": "::"}, id="ipv6", marks=pytest.mark.slow),
        pytest.param(
            {"SVD_PUBLIC_URL": "https://svd.example/svd", "SVD_PAGE_AUTH": "ann:secret"},
            id="path-and-login", marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_the_server_is_healthy_as_the_image_starts_it(
    settings: dict[str, str], own: dict[str, str]
) -> None:
    if own.get("GRADIO_SERVER_NAME") == "::" and not has_ipv6():
        pytest.skip("no IPv6")
    given = settings | {"GRADIO_SERVER_NAME": environ()["GRADIO_SERVER_NAME"]} | own
    with started(**given) as process:
        ready(process, settings)
        assert check(given) is None
        done = subprocess.run(
            [sys.executable, "deploy/health.py"], cwd=ROOT, capture_output=True, text=True,
            env=os.environ | given | {"PYTHONPATH": str(ROOT)}, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        if not own:
            assert NO_KEYS in said_by_the_api(settings["GRADIO_SERVER_PORT"])


def said_by_the_api(port: str) -> str:
    connection = HTTPConnection("127.0.0.1", int(port), timeout=60)
    connection.request("POST", "/fal/run/fal-ai/stable-video", body=b"{}")
    response = connection.getresponse()
    assert response.status == 401
    body = response.read().decode()
    connection.close()
    return body
