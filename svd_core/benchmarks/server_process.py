"""`app.py` as a process on a free port, with its data in a folder."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from svd_core.checkpoints.table import ASSETS

APP = ASSETS.parent / "app.py"
START_S = 120.0
"""Seconds within which it has to answer."""


@dataclass(frozen=True)
class Server:
    port: int
    folder: Path
    process: subprocess.Popen[bytes]

    def answers(self, path: str, having: bytes = b"") -> bool:
        """Whether it gives what has `having` in it at `path`, within `START_S`."""
        until = time.monotonic() + START_S
        while self.process.poll() is None and time.monotonic() < until:
            body = self._get(path)
            if body is not None and having in body:
                return True
            time.sleep(0.05)
        return False

    def cpu_s(self) -> float:
        """Seconds of all processors that it has used, its encoders' included; as Linux tells."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Megabytes (10^6 bytes) that it holds now; as Linux tells."""
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
    """The program with these `SVD_` settings and no others, from its start on. `program`: arguments
    of Python, if it is another one that goes by the same settings."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"SVD_{name.upper()}": value for name, value in settings.items()}
    own |= {"GRADIO_SERVER_PORT": str(port), "SVD_DATA_DIR": str(folder)}
    others = {name: value for name, value in os.environ.items() if not name.startswith("SVD_")}
    process = subprocess.Popen(  # noqa: S603  # this very program
        [sys.executable, *(program or [str(APP)])],
        cwd=APP.parent, env=others | own, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield Server(port, folder, process)
    finally:
        process.terminate()
        process.wait(timeout=30)
