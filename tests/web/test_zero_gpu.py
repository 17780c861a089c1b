"""A ZeroGPU Space: the real `spaces` package against a device endpoint on loopback.

`app.py` runs as a process of its own, with a CPU dressed as the GPU
(tests/fakes/zero_gpu_space.py). Not testable without the platform: CUDA, its tokens, and how
long a video takes there."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import gradio as gr
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from svd_core.checkpoints.eta import zero_gpu_seconds
from svd_core.checkpoints.table import CHECKPOINTS, find_checkpoint
from svd_core.errors import GenerationFailed, QueueFull
from svd_core.media.recipe import Recipe
from svd_core.params import VideoParams
from svd_core.web.fal.signed_tokens import load_secret
from svd_core.web.page import SessionIds
from svd_core.web.zero_gpu import WORKER_ERROR_TITLE, refusal
from tests.fakes.engines import photo
from tests.test_app import ROOT, SECONDS, ready

SPACE = pytest.mark.slow
LONG = {"num_inference_steps": "100", "num_frames": "8"}
"""Some seconds, also with the tiny checkpoint."""


class Devices:
    """The endpoint by which a Space borrows GPUs. `quota`: seconds left; more is refused."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, str]]] = []
        self.changed = threading.Condition(threading.RLock())
        self.quota = 10_000

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, dict[str, Any]]:
        with self.changed:
            self.calls.append((path, query))
            self.changed.notify_all()
            number = len(self.calls)
        if path != "/schedule":
            return 200, {}
        if int(query["durationSeconds"]) > self.quota:
            return 429, {"left": self.quota, "wait": 3600}
        gpu = {"nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "idle": True}
        return 200, gpu | {"allowToken": f"token-{number}"}

    def of(self, path: str) -> list[dict[str, str]]:
        with self.changed:
            return [query for called, query in self.calls if called == path]

    def wait_for(self, path: str, count: int) -> dict[str, str]:
        """The `count`th call of `path`."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.of(path)) >= count, SECONDS), self.calls
            return self.of(path)[count - 1]


@contextmanager
def answering(devices: Devices) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            status, answer = devices.answer(url.path, query)
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class Space:
    devices: Devices
    process: subprocess.Popen[bytes]
    client: Client
    photo: Path
    log: Path

    def videos(self) -> set[str]:
        return {path.name for path in (self.log.parent / "results").glob("*.mp4")}

    def generate(self, **values: object) -> tuple[str, int, str]:
        made = self.client.predict(image=handle_file(self.photo), api_name="/generate", **values)
        assert isinstance(made, tuple)
        return made


@pytest.fixture(scope="module")
def space(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    with started(tiny_checkpoint, tmp_path_factory.mktemp("space")) as space:
        yield space


@contextmanager
def started(checkpoint: Path, folder: Path) -> Iterator[Space]:
    """A Space with `checkpoint`, its data in `folder`."""
    (folder / "cgroup").write_text("0::/space\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "SVD_MODEL": str(checkpoint),
        "SVD_MAX_STEPS": "100",  # on a Space visitors get no more steps than the checkpoint's own
        "SVD_DATA_DIR": str(folder),
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "SPACES_ZERO_GPU": "true",
        "ZEROGPU_OFFLOAD_DIR": str(folder / "offloaded"),
        "ZEROGPU_PROC_SELF_CGROUP_PATH": str(folder / "cgroup"),
        "HOME": str(folder),
    }
    log, devices = folder / "log", Devices()
    with answering(devices) as url, log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, ROOT / "tests" / "fakes" / "zero_gpu_space.py"], cwd=ROOT, stdout=out,
            stderr=out, env=os.environ | settings | {"SPACES_ZERO_DEVICE_API_URL": url},
            start_new_session=True,
        )  # fmt: skip
        try:
            url = ready(process, settings, 5 * SECONDS)
            client = Client(url, verbose=False, analytics_enabled=False)
            yield Space(devices, process, client, photo(folder / "photo.png"), log)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the workers too
            process.wait()


@dataclass
class Tab:
    """A browser's tab with the page, below the browser."""

    space: Space
    session: str = field(default_factory=lambda: uuid4().hex)

    def __post_init__(self) -> None:
        self.config = self.space.client.config
        secret = load_secret(self.space.log.parent / "secrets" / "visitors")
        self.visitor = SessionIds(secret).ensure_id(None)

    def _connect(self) -> HTTPConnection:
        return HTTPConnection(urlsplit(self.space.client.src).netloc, timeout=SECONDS)

    def _post(self, path: str, action: dict[str, Any], data: list[Any]) -> None:
        body = {"data": data, "fn_index": action["id"], "session_hash": self.session}
        connection = self._connect()
        head = {"Content-Type": "application/json"}
        connection.request("POST", f"/gradio_api/{path}", json.dumps(body), head)
        response = connection.getresponse()
        assert response.status == 200, response.read()
        response.read()
        connection.close()

    def _action(self, button: str) -> dict[str, Any]:
        """What a click on the button with that `elem_id` calls."""
        (target,) = (c["id"] for c in self.config["components"]
                     if c["props"].get("elem_id") == button)  # fmt: skip
        found = (d for d in self.config["dependencies"] if [target, "click"] in d["targets"])
        return next(action for action in found if action["backend_fn"])

    def generate(self, **values: str) -> Generator[str]:
        """Click on Generate: the lines that the server sends. Closing it closes the tab."""
        asking = self._action("generate")
        (watching,) = (d for d in self.config["dependencies"] if d["trigger_after"] == asking["id"])
        self._post("run/predict", asking, self._inputs(asking, values))
        self._post("queue/join", watching, self._inputs(watching, values))
        stream = self._connect()
        stream.request("GET", f"/gradio_api/queue/data?session_hash={self.session}")
        with closing(stream), stream.getresponse() as response:
            for line in response:
                yield line.decode()

    def _inputs(self, action: dict[str, Any], values: dict[str, str]) -> list[Any]:
        """What the browser sends along: the photo, who this is, and the dials."""
        encoded = base64.b64encode(self.space.photo.read_bytes()).decode()
        image = {"url": f"data:image/png;base64,{encoded}", "meta": {"_type": "gradio.FileData"}}
        parts = {c["id"]: c for c in self.config["components"]}
        data = []
        for part in map(parts.__getitem__, action["inputs"]):
            props = part["props"]
            name = props.get("elem_id")
            known = {"photo": image} | values
            own = self.visitor if part["type"] == "browserstate" else props.get("value")
            data.append(known.get(name, own))
        return data

    def stop(self) -> None:
        stopping = self._action("stop")
        self._post("run/predict", stopping, self._inputs(stopping, {}))


@SPACE
def test_the_start_is_reported_with_the_model_placed(space: Space) -> None:
    assert space.devices.calls[0] == ("/startup-report", {})
    assert len(space.devices.of("/startup-report")) == 1
    assert "tensors packing: 100%" in space.log.read_text()


@SPACE
def test_a_video_is_made_in_the_time_that_was_asked_for(
    space: Space, tiny_checkpoint: Path
) -> None:
    asked = VideoParams(seed=3, num_inference_steps=20)
    job = space.client.submit(
        image=handle_file(space.photo), seed=3, num_inference_steps=20, api_name="/generate"
    )
    seen = set()
    while not job.done():
        seen |= {unit.desc for unit in job.status().progress_data or []}
        time.sleep(0.01)
    video, seed, _ = job.result()
    assert seed == 3
    assert Recipe.read(Path(video)).params.num_inference_steps == 20
    assert any("of 20" in text for text in seen), seen
    seconds = zero_gpu_seconds(find_checkpoint(str(tiny_checkpoint), cuda=True), asked)
    assert space.devices.of("/schedule")[-1]["durationSeconds"] == str(seconds)
    worker = int(space.devices.of("/allow")[-1]["pid"])
    assert worker != space.process.pid
    assert space.devices.wait_for("/release", len(space.devices.of("/schedule")))["fail"] == "false"


@SPACE
def test_an_error_in_the_worker_arrives_in_its_own_words(space: Space) -> None:
    scheduled = len(space.devices.of("/schedule"))
    with pytest.raises(AppError, match=r"\(2\) must not be lower than min_guidance_scale \(5\)"):
        space.generate(min_guidance_scale=5, max_guidance_scale=2)
    assert len(space.devices.of("/schedule")) == scheduled + 1


@SPACE
def test_a_refused_gpu_is_explained_in_the_platforms_words(
    space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space.devices, "quota", 1)
    with pytest.raises(AppError, match="No GPU is free for this video: .*GPU limit"):
        space.generate()


@SPACE
@pytest.mark.parametrize("how", ["stop", "close"])
def test_stopping_and_closing_the_tab_give_the_gpu_back(space: Space, how: str) -> None:
    tab = Tab(space)
    released = len(space.devices.of("/release"))
    videos = space.videos()
    with closing(tab.generate(**LONG)) as lines:
        assert any(" of 100" in line for line in lines)
        assert len(space.devices.of("/release")) == released
        if how == "stop":
            tab.stop()
            assert "Stopped" in "".join(lines)
    assert space.devices.wait_for("/release", released + 1)["fail"] == "false"
    assert space.videos() == videos, "the work went on to its end"
    workers = space.devices.of("/allow")
    assert Path(space.generate()[0]).stat().st_size > 1000
    assert space.devices.of("/allow") == workers, "the worker was not free for the next video"


@SPACE
def test_a_job_of_the_api_is_made_though_nobody_watches_it(space: Space) -> None:
    picture = base64.b64encode(space.photo.read_bytes()).decode()
    body = json.dumps({"image_url": f"data:image/png;base64,{picture}", "seed": 4}).encode()
    head = {"content-type": "application/json"}
    call = f"{space.client.src}fal/queue/fal-ai/stable-video"
    with urllib.request.urlopen(urllib.request.Request(call, body, head), timeout=10) as answer:
        urls = json.load(answer)
    deadline = time.monotonic() + SECONDS
    while told(urls["status_url"])["status"] != "COMPLETED":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    result = told(urls["response_url"])
    assert result["seed"] == 4
    with urllib.request.urlopen(result["video"]["url"], timeout=10) as video:
        assert len(video.read()) == result["video"]["file_size"] > 1000


def told(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


@SPACE
def test_zz_sigterm_ends_the_space_with_a_job_running(space: Space) -> None:
    """The last one: it takes the Space of the others down."""
    videos = space.videos()
    with closing(Tab(space).generate(**LONG)) as lines:
        assert any(" of 100" in line for line in lines)
        worker = int(space.devices.of("/allow")[-1]["pid"])
        space.process.send_signal(signal.SIGTERM)
        assert space.process.wait(SECONDS) == 0
    assert not Path(f"/proc/{worker}").exists()
    assert "Traceback" not in space.log.read_text()
    assert space.videos() == videos


def test_seconds_grow_with_the_work() -> None:
    xt = CHECKPOINTS["svd-xt"]
    usual = zero_gpu_seconds(xt, VideoParams())
    assert 40 <= usual <= 90  # of the 120 that a visitor without an account has in a day
    fixed = zero_gpu_seconds(xt, VideoParams(num_frames=2, num_inference_steps=1))
    assert fixed < 15
    for more in ({"num_frames": 50}, {"num_inference_steps": 50}):
        assert zero_gpu_seconds(xt, VideoParams(**more)) == pytest.approx(
            2 * usual - fixed, rel=0.1
        )
    half = zero_gpu_seconds(xt, VideoParams(max_guidance_scale=1.0))
    assert half == pytest.approx((usual + fixed) / 2, rel=0.1)
    assert zero_gpu_seconds(CHECKPOINTS["svd"], VideoParams()) < usual


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (
            gr.Error("GPU task aborted", title=WORKER_ERROR_TITLE),
            GenerationFailed,
            "fewer steps or frames",
        ),
        (gr.Error("Try again in 2:00:00. ", title="ZeroGPU quota exceeded"), QueueFull, "2:00:00."),
    ],
)
def test_refusals_say_what_to_do(error: gr.Error, kind: type, words: str) -> None:
    found = refusal(error)
    assert isinstance(found, kind)
    assert str(found).endswith(words) or words in str(found)
