"""Server process for benchmarks: `app.py` on a free port, also with a stub engine.

`python -m svd_core.benchmarks.server_process` is `app.py` with the stub engine, which measures
everything around the model.
"""

import os
import runpy
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.checkpoints.table import ASSETS, CHECKPOINTS, DEMO_MODEL
from svd_core.engine.engine import EngineStatus, ModelHandle
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

    def answers(self, path: str, having: bytes = b"") -> bool:
        """Whether `path` responds within `START_S`, with `having` in the body."""
        until = time.monotonic() + START_S
        while self.process.poll() is None and time.monotonic() < until:
            body = self._get(path)
            if body is not None and having in body:
                return True
            time.sleep(0.05)
        return False

    def cpu_s(self) -> float:
        """CPU seconds of all cores, video encoders included, from Linux's /proc."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Resident megabytes (10^6 bytes), from Linux's /proc."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def _get(self, path: str) -> bytes | None:
        try:
            address = f"http://127.0.0.1:{self.port}{path}"
            with urllib.request.urlopen(address, timeout=5) as response:  # noqa: S310  # loopback
                body: bytes = response.read()
                return body if response.status == 200 else None
        except OSError:
            return None


@contextmanager
def running_server(folder: Path, *program: str, **settings: str) -> Iterator[Server]:
    """Run the server with these `SVD_` settings and no others.

    `program`: arguments of Python, for another program with the same settings.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {f"SVD_{name.upper()}": value for name, value in settings.items()}
    variables |= {"GRADIO_SERVER_PORT": str(port), "SVD_DATA_DIR": str(folder)}
    others = {name: value for name, value in os.environ.items() if not name.startswith("SVD_")}
    process = subprocess.Popen(  # noqa: S603  # this very program
        [sys.executable, *(program or [str(APP)])],
        cwd=APP.parent, env=others | variables, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield Server(port, folder, process)
    finally:
        process.terminate()
        process.wait(timeout=30)


SMALL = replace(CHECKPOINTS[DEMO_MODEL], name="still", sizes=((128, 72),), num_frames=2)


class StillEngine:
    """Stub engine whose frames are all the photo; settings are ignored."""

    def __init__(self, _: Settings) -> None:
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
