"""Server process for benchmarks: `app.py` on a free port, also with a stub engine.

`python -m svd_core.benchmarks.server_process` is `app.py` with the stub engine, which measures
everything around the model.
"""

import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import numpy as np
from PIL import Image

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.checkpoints.table import ASSETS, CHECKPOINTS, DEMO_MODEL
from svd_core.engine.engine import EngineStatus, ModelHandle
from svd_core.errors import ToolFailed
from svd_core.events import OnProgress, Progress, Stage
from svd_core.params import VideoParams
from svd_core.settings import Settings
from svd_core.types import GenerationResult

APP = ASSETS.parent / "app.py"

STUB_SERVER = ("-m", "svd_core.benchmarks.server_process")
"""Arguments of Python that run `app.py` with the stub engine."""

START_S = 120.0
"""Seconds within which the server must answer."""


@dataclass(frozen=True)
class Server:
    """A running server. `folder`: its data."""

    port: int
    folder: Path
    process: subprocess.Popen[bytes]

    def cpu_s(self) -> float:
        """CPU seconds of all cores, video encoders included, from Linux's /proc."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Resident megabytes (10^6 bytes), from Linux's /proc."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def request(
        self,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        method: str = "",
    ) -> tuple[int, bytes]:
        """Status and body of a response; status 0 if the server is down or hangs up.

        `method`: by default POST with a body, else GET.
        """
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            method = method or ("POST" if body else "GET")
            connection.request(method, path, body or None, dict(headers or {}))
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, HTTPException):
            return 0, b""
        finally:
            connection.close()

    def wait_for(self, path: str, content: bytes) -> None:
        """Wait until the response to `path` has `content`. Raises `ToolFailed` after `START_S`."""
        until = time.monotonic() + START_S
        while self.process.poll() is None and time.monotonic() < until:
            status, body = self.request(path)
            if status == 200 and content in body:
                return
            time.sleep(0.05)
        raise ToolFailed("The server did not start; its messages above say why.")


@contextmanager
def running_server(
    *program: str, folder: Path | None = None, path: str = "/fal/health", **settings: str
) -> Iterator[Server]:
    """Run the server with these `SVD_` settings and no others, and wait until it is ready.

    `program`: arguments of Python, for another program with the same settings. `folder`: data of an
    earlier run. `path`: what the server must answer; `/fal/health` waits for the model too. Raises
    `ToolFailed` if the server does not start.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    others = {name: value for name, value in os.environ.items() if not name.startswith("SVD_")}
    with tempfile.TemporaryDirectory() as scratch:
        folder = folder or Path(scratch)
        settings = {"model": DEMO_MODEL, "data_dir": str(folder), **settings}
        variables = {f"SVD_{name.upper()}": value for name, value in settings.items()}
        process = subprocess.Popen(  # noqa: S603  # this very program
            [sys.executable, *(program or [str(APP)])], cwd=APP.parent, stdout=subprocess.DEVNULL,
            env=others | variables | {"GRADIO_SERVER_PORT": str(port)},
        )  # fmt: skip
        server = Server(port, folder, process)
        try:
            server.wait_for(path, b'"ok"' if path == "/fal/health" else b"")
            yield server
        finally:
            process.terminate()
            process.wait(timeout=30)


def example_photo() -> Path:
    """The first of the project's example photos."""
    return min((ASSETS / "examples").glob("*.jpg"))


SMALL = replace(CHECKPOINTS[DEMO_MODEL], name="still", sizes=((128, 72),), num_frames=2)


class StillEngine:
    """Stub engine whose frames are all the photo; settings are ignored."""

    def __init__(self, _: Settings | None = None) -> None:
        self.status = EngineStatus(
            checkpoint=SMALL, device="no device", state="ready", catalog=ModelCatalog((SMALL,))
        )

    def load(self, on_progress: OnProgress, model: str | None = None) -> ModelHandle:  # noqa: ARG002
        return ModelHandle(SMALL, self.generate)

    def generate(
        self, image: Image.Image, params: VideoParams, on_progress: OnProgress
    ) -> GenerationResult:
        on_progress(Progress(stage=Stage.DENOISING, step=1, total=1))
        return GenerationResult(
            np.stack([np.asarray(image, dtype=np.uint8)] * SMALL.num_frames), params
        )


if __name__ == "__main__":
    runpy.run_path(str(APP))["main"](StillEngine)
