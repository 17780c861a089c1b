"""The published clients for JavaScript, unmodified, against our API: recipes J1 to J5."""

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from svd_core.settings import Settings
from svd_core.web.safe_http import Fetcher
from tests.fakes.fal_server import KEY, KEYS, FalServer, fal_server
from tests.fakes.work import FakeWork
from tests.web.test_safe_http import PUBLIC

FOLDER = Path(__file__).parent / "fal_clients"
APP = "fal-ai/stable-video"


@pytest.fixture(scope="session")
def node() -> Path:
    """The folder with the clients, installed from the registry if they are not there yet."""
    wanted, found = FOLDER / "package.json", FOLDER / "node_modules" / ".package-lock.json"
    if not shutil.which("node") or not shutil.which("npm"):
        assert not os.environ.get("REQUIRE_NODE"), "node and npm must be there"
        pytest.skip("no node and npm, which these clients need")
    with wanted.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # two processes test, and one of them installs
        if not found.is_file() or found.stat().st_mtime < wanted.stat().st_mtime:
            subprocess.run(
                ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent"],
                cwd=FOLDER, check=True, timeout=300,
            )  # fmt: skip
            found.touch()
    return FOLDER


def run(server: FalServer, arguments: Sequence[str | Path], **environ: str) -> dict[str, Any]:
    clean = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    own = {"FAL_KEY": KEY, "FAL_LOCAL_BASE": server.url} | environ
    done = subprocess.run(
        ["node", *arguments], cwd=FOLDER, env=clean | own, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def scenario(server: FalServer, way: str, name: str, image: Path, **environ: str) -> dict[str, Any]:
    preload = ["--import", "./redirect-fetch.mjs"] if way == "J1" else []
    return run(server, [*preload, "scenarios.mjs", way, name, image], **environ)


def test_j1_the_documented_calls_run_as_they_are_written(
    node: Path, tmp_path: Path, image: Path
) -> None:
    """The photo's and the webhook's addresses are on paper: no name is looked up or dialled."""
    told_hooks: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            told_hooks.append(request)
            return httpx.Response(200)
        stream = httpx.ByteStream(image.read_bytes())
        return httpx.Response(200, headers={"Content-Type": "image/png"}, stream=stream)

    paper = Fetcher(
        resolve=lambda host, port: [PUBLIC], transport=lambda: httpx.MockTransport(answer)
    )
    settings = Settings(data_dir=tmp_path, api_keys=KEYS)
    with fal_server(tmp_path, settings, fetcher=paper) as server:
        told = run(server, ["--import", "./redirect-fetch.mjs", "seed_app.mjs"])
        for key in ("subscribed", "result"):
            video = told[key]["data"]["video"]
            assert httpx.get(video["url"]).headers["content-length"] == str(video["file_size"])
            assert isinstance(told[key]["data"]["seed"], int)
        assert told["subscribed"]["requestId"] in told["subscribed"]["data"]["video"]["url"]
        assert told["result"]["requestId"] == told["submitted"]
        assert told["status"]["status"] == "COMPLETED"
        assert told["status"]["logs"][0]["message"] == "Denoising: step 1 of 3"
        uploaded = httpx.get(told["url"])
        assert uploaded.text == "Hello, World!"
        assert uploaded.headers["content-type"] == "application/octet-stream"
        for _ in range(100):
            if told_hooks:
                break
            time.sleep(0.05)
    (hook,) = told_hooks
    assert hook.headers["host"] == "optional.webhook.example"
    body = json.loads(hook.content)
    assert (body["status"], body["payload"]) == ("OK", told["result"]["data"])


@pytest.mark.parametrize("way", ["J1", "J2", "J3", "J4", "J5"])
def test_everything_that_goes_well(node: Path, server: FalServer, image: Path, way: str) -> None:
    told = scenario(server, way, "happy", image)
    for kind in ("polled", "streamed"):
        found = told[kind]
        order = ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
        assert found["states"] == [state for state in order if state in found["states"]]
        assert found["states"][-1] == "COMPLETED"
        assert found["requestId"] in found["data"]["video"]["url"]
        assert found["data"]["seed"] == 21
        lengths = [len(lines) for lines in found["logs"]]
        assert lengths == sorted(lengths)
        last = found["logs"][-1]
        assert last[:3] == [f"Denoising: step {step} of 3" for step in (1, 2, 3)]
        assert len(set(last)) == len(last)  # no line twice
    assert told["submitted"]["status"] == "IN_QUEUE"
    assert told["status"]["request_id"] == told["result"]["requestId"]
    assert told["result"]["data"]["seed"] == 22
    assert told["run"]["data"]["seed"] == 23
    assert told["run"]["requestId"] in told["run"]["data"]["video"]["url"]
    assert told["stream"][-1] == told["done"]
    assert told["done"]["seed"] == 24
    assert told["stream"][-2]["progress"]["step"] == 3


@pytest.mark.parametrize("way", ["J1", "J2", "J3", "J4", "J5"])
def test_uploads(node: Path, server: FalServer, image: Path, work: FakeWork, way: str) -> None:
    told = scenario(server, way, "uploads", image)
    assert told["same"]
    assert (told["byUrl"], told["byBlob"]) == (25, 25)
    assert [request.image for request in work.requests[-2:]] == [image.read_bytes()] * 2
    for name in ("url", "nameless", "short"):
        assert told[name].endswith(".png")
    short = server.parts.uploads.find("/".join(told["short"].split("/")[-2:]))
    assert short is not None
    assert short.stat().st_mtime == pytest.approx(time.time() + 3600, abs=30)


def test_an_upload_of_more_than_90_mib(node: Path, server: FalServer, image: Path) -> None:
    start = len(server.asked)
    told = scenario(server, "J2", "big", image)
    assert told["same"]
    assert len([asked for asked in server.asked[start:] if asked.startswith("PUT ")]) == 10
    server.parts.uploads.find("/".join(told["url"].split("/")[-2:])).unlink()  # type: ignore[union-attr]


@pytest.mark.parametrize("way", ["J1", "J2", "J3", "J4"])
def test_everything_that_goes_wrong(node: Path, server: FalServer, image: Path, way: str) -> None:
    start = len(server.asked)
    told = scenario(server, way, "errors", image)
    for name in ("run", "subscribe", "stream"):
        assert (told[name]["validation"], told[name]["status"], told[name]["fps"]) == (True, 422, 1)
    assert told["subscribe"]["requestId"]
    kinds = {"buffer": "string_type", "empty": "missing", "gone": "file_download_error"}
    for name, kind in kinds.items():
        assert told[name]["validation"]
        assert told[name]["body"]["detail"][0]["type"] == kind
    for name in ("status", "result", "cancel"):
        assert (told[name]["status"], told[name]["body"]) == (404, {"status": "NOT_FOUND"})
    assert told["other"]["status"] == 404
    assert (told["late"]["status"], told["late"]["body"]["status"]) == (400, "ALREADY_COMPLETED")
    asked = server.asked[start:]
    for path in ("status", "cancel"):  # each of them once
        unknown = f"/{APP}/requests/764cabcf-b745-4b3e-ae38-1200304cf45b/{path}"
        assert len([one for one in asked if one.endswith(unknown)]) == 1


@pytest.mark.parametrize("way", ["J1", "J2", "J3", "J4"])
def test_a_wrong_key_is_refused_in_one_request(
    node: Path, server: FalServer, image: Path, way: str
) -> None:
    start = len(server.asked)
    told = scenario(server, way, "key", image, FAL_KEY="ann:wrong")
    assert (told["status"], told["body"]["error_type"]) == (401, "unauthorized")
    assert len(server.asked) == start + 1


def test_waiting_cancelling_and_giving_up(
    node: Path, server: FalServer, image: Path, work: FakeWork
) -> None:
    start = len(server.asked)
    with work.held():
        told = scenario(server, "J2", "held", image)
    assert (told["early"]["status"], told["place"]) == (400, 2)  # the low one is the last in line
    assert told["early"]["body"] == {"detail": "Request is still in progress"}
    assert (told["timeout"]["status"], told["timeout"]["isUserTimeout"]) == (504, True)
    result = f"GET /queue/{APP}/requests/{told['late']}"
    assert [asked for asked in server.asked[start:] if asked == result] == [result]
    for name, cancelled in zip(("waiting", "running"), told["cancelled"], strict=True):
        assert (cancelled["status"], cancelled["requestId"]) == (499, told[name])
        assert cancelled["body"]["error_type"] == "client_cancelled"
    assert "timed out" in told["impatient"]["other"]
    cancels = [asked for asked in server.asked[start:] if asked.startswith("PUT ")]
    assert len(cancels) == 3  # the last one of them by the client itself


@pytest.mark.parametrize("way", ["J1", "J4"])
def test_a_stream_without_a_key(node: Path, server: FalServer, image: Path, way: str) -> None:
    start = len(server.asked)
    told = scenario(server, way, "client", image)
    assert told == {"seed": 26, "watched": "COMPLETED"}
    assert len([asked for asked in server.asked[start:] if "/rest/tokens" in asked]) == 2
