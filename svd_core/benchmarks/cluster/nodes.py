"""Ray nodes of a pretended cluster: real processes on loopback addresses of this machine.

Each node is a process session, which can be killed or frozen as a whole, like a machine. It ends
with the process that started it. Only processes started here are ended: `ray stop` would end those
of others.
"""

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from svd_core.checkpoints.table import ASSETS
from svd_core.cluster.config import HEALTH_CHECKS
from svd_core.errors import ToolFailed

ROOT = ASSETS.parent
START_S = 120.0
"""Seconds within which a node must run."""

HEAD = "127.0.0.2"

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)

OPTIONS = ("--include-log-monitor=false", "--object-store-memory=1000000000")
"""Options of every node. The log monitor is off, since nothing reads its messages."""


def head_command(ip: str, port: int) -> list[str]:
    """The command of the README that starts the head, which has no GPU."""
    return [
        "ray", "start", "--head", "--block", f"--node-ip-address={ip}", f"--port={port}",
        "--num-cpus=0", "--num-gpus=0", "--include-dashboard=false", *OPTIONS,
    ]  # fmt: skip


def node_command(address: str) -> list[str]:
    """The command of the README that adds a GPU machine."""
    return ["ray", "start", "--block", f"--address={address}", *OPTIONS]


def ray_environment() -> dict[str, str]:
    """Variables of the pretended cluster: the token of this process, or a new one."""
    token = os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(16)
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@dataclass
class RayNode:
    """A node as a process. `ip`: its loopback address."""

    ip: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait_until_up(self) -> "RayNode":
        """Raises `ToolFailed` if it does not start."""
        until = time.monotonic() + START_S
        while "Ray runtime started" not in (log := self.log.read_text(errors="replace")):
            if self.process.poll() is not None or time.monotonic() > until:
                raise ToolFailed(f"The Ray node {self.ip} did not start: {log[-2000:]}")
            time.sleep(0.02)
        return self

    def pids(self) -> list[int]:
        """All processes of its session."""
        pids = []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                with suppress(ProcessLookupError, PermissionError):
                    if os.getsid(int(entry.name)) == self.process.pid:
                        pids.append(int(entry.name))
        return pids

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """Kill all of its processes at once, as a power cut does."""
        self.signal(signal.SIGKILL)
        self.process.wait()
        self.signal(signal.SIGKILL)  # processes that it was about to start


@dataclass
class LoopbackCluster:
    """A head and nodes, started by the commands of the README.

    `environ`: see `ray_environment`; the calling process needs it too, before it imports Ray.
    """

    environ: Mapping[str, str]
    checks: Mapping[str, str] = field(default_factory=lambda: HEALTH_CHECKS)
    nodes: list[RayNode] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Paths of sockets may have 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="svd-", dir="/tmp"))  # noqa: S108
        with socket.socket() as free:
            free.bind((HEAD, 0))
            self.port = free.getsockname()[1]

    @property
    def address(self) -> str:
        return f"{HEAD}:{self.port}"

    def start_head(self) -> RayNode:
        return self._start(HEAD, head_command(HEAD, self.port), self.checks)

    def start_node(self, ip: str, gpus: int = 1, cpus: int = 0, **environ: str) -> RayNode:
        """`cpus`: number of worker processes that Ray starts at once, and ahead of time."""
        command = [*node_command(self.address), f"--node-ip-address={ip}"]
        return self._start(ip, [*command, f"--num-cpus={cpus}", f"--num-gpus={gpus}"], environ)

    def close(self) -> None:
        """End all processes that were started here."""
        for node in self.nodes:
            node.signal(signal.SIGKILL)
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, ip: str, command: list[str], environ: Mapping[str, str]) -> RayNode:
        number = len(self.nodes)
        temp, log = self.folder / str(number), self.folder / f"{number}.log"
        temp.mkdir()
        ray = Path(sys.executable).with_name(command[0])
        others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        with log.open("wb") as out:
            # Each has its own folder, since nodes of one machine choose the same names in it.
            process = subprocess.Popen(  # noqa: S603 - Ray, as the README starts it
                [str(ray), *command[1:], f"--temp-dir={temp}"],
                cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=die_with_parent,
                env=others | {"TMPDIR": str(temp)} | dict(self.environ) | dict(environ),
            )  # fmt: skip
        node = RayNode(ip, process, log)
        self.nodes.append(node)
        return node


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends.

    So a killed test leaves nothing running. For `preexec_fn`, on Linux.
    """
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
