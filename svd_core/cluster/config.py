"""Configuration of the cluster, and the environment that Ray reads when it is imported.

Nothing here imports Ray, so a wrong setting is reported at once.
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
"""GPU devices in /dev: NVIDIA's, that of WSL, and AMD's."""

PRETENDED_GPUS = "RAY_OVERRIDE_RESOURCES"
"""Ray's variable with which tests pretend to have GPUs."""

HEALTH_CHECKS = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
}
"""Settings of the head that give up a silent machine after about 14 s instead of 62 s."""

LOCAL_ENDED = "Ray and its GPU workers on this machine have ended. Start the server again."

RECONNECT_TIMEOUT, FOREVER_S = "RAY_gcs_rpc_server_reconnect_timeout_s", "1000000"
"""Ray ends a process whose head is away longer than this, but the page must go on."""

TOKEN_FILE = Path("~/.ray/auth_token")
"""File from which Ray reads the token if no variable has it."""


@dataclass(frozen=True)
class ClusterConfig:
    """Where the workers are, and how many.

    `address`: `host:port` of the head, or "local". `least` workers stay loaded, and up to `most`
    run while jobs wait. `idle_s`: seconds after which an idle worker above the least gives its GPU
    back. `node_ip`: address of the Ray node to join, if this machine runs several.
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
    """Set the variables that Ray reads when it is imported. Call it before that.

    Raises `InvalidSettings` if Ray is not installed, not usable here, without a GPU, or without a
    token although other machines can reach the head.
    """
    if on_zero_gpu():
        raise InvalidSettings("cluster_on_zero_gpu")
    if sys.platform == "win32":
        raise InvalidSettings("cluster_needs_linux")
    if find_spec("ray") is None:
        raise InvalidSettings("cluster_needs_ray")
    environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if environ is os.environ and environ.get(RECONNECT_TIMEOUT) != FOREVER_S:
        assert "ray" not in sys.modules, "Ray has read its environment already"
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
    """Whether this machine may have a GPU. Ray knows more once it runs."""
    return any(any(devices.glob(name)) for name in GPU_FILES)


def has_token(environ: MutableMapping[str, str]) -> bool:
    """Whether Ray checks a token, and has one."""
    path = Path(environ.get("RAY_AUTH_TOKEN_PATH") or TOKEN_FILE)
    token = environ.get("RAY_AUTH_TOKEN", "").strip() or path.expanduser().is_file()
    return environ.get("RAY_AUTH_MODE", "").lower() == "token" and bool(token)


def is_loopback(host: str) -> bool:
    """Whether all addresses of `host` are loopback ones; False for an unknown host."""
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(address).is_loopback for address in addresses)
