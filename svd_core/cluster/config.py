"""Configuration of the cluster, and the environment that Ray reads when it is imported.

Nothing here imports Ray, so that a wrong setting is reported at once.
"""

import ipaddress
import os
import secrets
import socket
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from svd_core.errors import InvalidSettings
from svd_core.settings import Settings, on_zero_gpu

LOCAL = "local"
"""`SVD_CLUSTER` for all GPUs of this machine."""

GPU_FILES = ("nvidia[0-9]*", "dxg", "kfd")
"""Devices in /dev: NVIDIA's, the one inside WSL, and AMD's. Without one of them there is no GPU."""

PRETENDED_GPUS = "RAY_OVERRIDE_RESOURCES"
"""Variable of Ray, by which tests pretend that there are GPUs."""

HEALTH_CHECKS = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
}
"""Settings of the head by which a silent machine is given up after some 14 s, instead of 62 s."""

LOCAL_ENDED = "Ray on this machine has ended, and the GPU workers with it; start the server again."

RECONNECT_TIMEOUT, FOREVER_S = "RAY_gcs_rpc_server_reconnect_timeout_s", "1000000"
"""Ray ends a process whose head is away for longer than this. The page must go on."""

TOKEN_FILE = Path("~/.ray/auth_token")
"""Where Ray looks for a token that no variable holds."""


@dataclass(frozen=True)
class ClusterConfig:
    """Where the workers are, and how many.

    `address`: `host:port` of the head, or "local". `least` workers are kept loaded, and `most` are
    asked for while jobs wait. `idle_s`: seconds after which an idle worker above the least gives
    its GPU back. `node_ip`: which Ray node of this machine to join, if it runs several.
    """

    address: str
    least: int = 1
    most: int = 64
    idle_s: float = 300.0
    node_ip: str | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> "ClusterConfig":
        return cls(settings.cluster, *settings.worker_range, settings.cluster_idle_s)

    @property
    def is_local(self) -> bool:
        return self.address == LOCAL

    @property
    def head(self) -> tuple[str, int]:
        """Host and port of the head."""
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)


def prepare_environment(
    config: ClusterConfig, environ: MutableMapping[str, str] = os.environ
) -> None:
    """Set what Ray reads from the environment when it is imported. Call it before that.

    Raises `InvalidSettings` where Ray is not installed, cannot be used here, has no GPU, or has no
    token though other machines can reach the head.
    """
    if on_zero_gpu():
        raise InvalidSettings("cluster_on_zero_gpu")
    if sys.platform == "win32":
        raise InvalidSettings("cluster_needs_linux")
    if find_spec("ray") is None:
        raise InvalidSettings("cluster_needs_ray")
    environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if environ is os.environ and environ.get(RECONNECT_TIMEOUT) != FOREVER_S:
        assert "ray" not in sys.modules, "it would not read this any more"
    environ[RECONNECT_TIMEOUT] = FOREVER_S
    if config.is_local:
        if not environ.get(PRETENDED_GPUS) and not has_gpu():
            raise InvalidSettings("cluster_without_gpu")
        for name, value in HEALTH_CHECKS.items():
            environ.setdefault(name, value)
        environ["RAY_AUTH_MODE"] = "token"
        environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    elif not has_token(environ) and not is_loopback(config.head[0]):
        raise InvalidSettings("cluster_needs_token")


def has_gpu(devices: Path = Path("/dev")) -> bool:
    """Whether this machine may have a GPU. Ray knows more, once it runs."""
    return any(any(devices.glob(name)) for name in GPU_FILES)


def has_token(environ: MutableMapping[str, str]) -> bool:
    """Whether Ray will ask for a token, and has one."""
    path = Path(environ.get("RAY_AUTH_TOKEN_PATH") or TOKEN_FILE)
    given = environ.get("RAY_AUTH_TOKEN", "").strip() or path.expanduser().is_file()
    return environ.get("RAY_AUTH_MODE", "").lower() == "token" and bool(given)


def is_loopback(host: str) -> bool:
    """Whether every address of `host` is of this machine alone; False for an unknown host."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(address).is_loopback for address in found)
