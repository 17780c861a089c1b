"""Connection of this process to the cluster; it survives the loss of the head and of its node.

`ray.nodes()` ends the process after a restart of the head. So a thread reads the nodes with a new
client each time, and looks for this process's node among them.
"""

import ctypes
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
import ray._raylet
from ray.core.generated.common_pb2 import NodeDeathInfo  # type: ignore[attr-defined]
from ray.core.generated.gcs_pb2 import GcsNodeInfo  # type: ignore[attr-defined]

from svd_core.cluster.config import ClusterConfig
from svd_core.cluster.placement import Node, Nodes
from svd_core.errors import InvalidSettings

PROBE_S = 1.0
"""Seconds between two reads of the nodes, which take 2 ms."""

STALE_S = 5.0
"""Seconds after which the last read of the nodes is outdated."""

LOCAL_STALE_S = 60.0
"""Seconds until a local cluster is given up, since nothing restarts its head."""

CONNECT_S = 2.0

ORDERLY = (
    NodeDeathInfo.EXPECTED_TERMINATION,
    NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED,
    NodeDeathInfo.AUTOSCALER_DRAIN_IDLE,
)
"""Reasons for the end of a node that was stopped and did not crash."""

OBJECT_STORE_BYTES = 1_000_000_000

log = logging.getLogger(__name__)


class ClusterUnreachable(Exception):
    """This process is not in the cluster. The text says why and what to do, for the log."""


class Connection:
    """Connection to the cluster. Not thread-safe, except `nodes` and `is_lost`.

    `on_change` is called from another thread after each read of the nodes.
    """

    def __init__(self, config: ClusterConfig, on_change: Callable[[], None]) -> None:
        self._config = config
        self._on_change = on_change
        self._own_node = ""
        self._address = config.address
        self._nodes: Nodes | None = None
        self._read_at = 0.0
        self._due = threading.Event()
        self._closed = False
        self._reader: threading.Thread | None = None

    @property
    def is_open(self) -> bool:
        return bool(self._own_node)

    @property
    def nodes(self) -> Nodes | None:
        """The living nodes; None before the first read and while the head is silent."""
        return None if self.is_silent else self._nodes

    @property
    def is_silent(self) -> bool:
        """Whether the head no longer responds."""
        return self.is_open and time.monotonic() - self._read_at > STALE_S

    @property
    def is_lost(self) -> bool:
        """Whether the head no longer knows this process's node: one of them has died."""
        nodes = self.nodes
        if self._config.is_local and self.is_open and nodes is None:
            return time.monotonic() - self._read_at > LOCAL_STALE_S
        return self.is_open and nodes is not None and self._own_node not in nodes

    def is_taken_away(self, node: str) -> bool:
        """Ask the head whether a node was drained or stopped."""
        try:
            client = _connect(self._address)
            if node in client.get_draining_nodes():
                return True
            nodes = client.get_all_node_info(timeout=CONNECT_S)
        except Exception as error:  # noqa: BLE001 - without a head, nothing is known
            log.debug("The head did not say why a node ended: %s", error)
            return False
        info = next((info for node_id, info in nodes.items() if node_id.hex() == node), None)
        return info is not None and info.death_info.reason in ORDERLY

    def open(self) -> None:
        """Join the cluster, which may take a minute.

        Raises `ClusterUnreachable`, and `InvalidSettings` for a local cluster without GPUs.
        """
        if self._config.is_local:
            self._start_local()
        else:
            self._check_head()
            self._init(address=self._config.address, _node_ip_address=self._config.node_ip)
        context = ray.get_runtime_context()
        self._address = context.gcs_address
        self._nodes, self._read_at = None, time.monotonic()
        self._own_node = context.get_node_id()
        if self._reader is None:
            self._reader = threading.Thread(
                target=self._read_nodes, name="svd-cluster-nodes", daemon=True
            )
            self._reader.start()
        self._due.set()

    def close(self) -> None:
        """Leave the cluster, which ends all actors of this process.

        No other thread may be in a call of Ray, which would end it with `SystemExit`.
        """
        self._own_node = ""
        ray.shutdown()

    def stop(self) -> None:
        """Stop reading the nodes."""
        self._closed = True
        self._due.set()

    def _start_local(self) -> None:
        """Start Ray on this machine for the life of this process, from the main thread."""
        handler = signal.getsignal(signal.SIGTERM)
        try:
            self._init(
                address="local",
                num_cpus=0,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
            )
        except ClusterUnreachable as error:
            raise InvalidSettings("cluster_local_failed", reason=str(error)) from error
        finally:
            signal.signal(signal.SIGTERM, handler)  # Ray has replaced it
        resources: Callable[[], Mapping[str, float]] = ray.cluster_resources
        if not resources().get("GPU"):
            ray.shutdown()
            raise InvalidSettings("cluster_without_gpu")

    def _check_head(self) -> None:
        """Fail at once if the head is away; `ray.init` would try for a minute."""
        host, port = self._config.head
        try:
            socket.create_connection((host, port), CONNECT_S).close()
        except OSError as error:
            raise ClusterUnreachable(
                f"The head of the cluster at {self._config.address} does not respond "
                f"({error.strerror or error}). Check that it runs and that SVD_CLUSTER is right. "
                "This server keeps trying to join it."
            ) from error

    def _init(self, **options: Any) -> None:
        try:
            with kept_sigterm():
                ray.init(
                    namespace="svd", log_to_driver=False, logging_level=logging.ERROR, **options
                )
        except Exception as error:
            ray.shutdown()  # or the next try would fail
            raise ClusterUnreachable(_reason(self._config.address, error)) from error

    def _read_nodes(self) -> None:
        while True:
            self._due.wait(PROBE_S)
            self._due.clear()
            if self._closed:
                return
            own_node = self._own_node
            if not own_node:
                continue
            try:
                nodes = read_nodes(self._address)
            except Exception as error:  # noqa: BLE001 - in any case the head has not responded
                log.debug("Cannot read the nodes of the cluster: %s", error)
                continue
            if own_node == self._own_node:  # still in the same cluster
                self._nodes, self._read_at = nodes, time.monotonic()
                self._on_change()


@contextmanager
def kept_sigterm() -> Iterator[None]:
    """Restore the C handler of SIGTERM, which Ray replaces by one that prints a stack trace first.

    `signal.signal` would need the main thread.
    """
    get = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_int)(("PyOS_getsig", ctypes.pythonapi))
    put = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(
        ("PyOS_setsig", ctypes.pythonapi)
    )
    handler = get(signal.SIGTERM)
    try:
        yield
    finally:
        put(signal.SIGTERM, handler)


def _connect(address: str) -> Any:
    """A new client of the head. May block for half a minute if that is frozen."""
    host, port = address.rsplit(":", 1)
    socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    raylet: Any = ray._raylet  # Ray has no public call for this, and its version is pinned
    return raylet.GcsClient(address=address)


def read_nodes(address: str) -> Nodes:
    """Read the living nodes from the head. Blocks as `_connect` does."""
    client = _connect(address)
    alive = client.get_all_node_info(timeout=CONNECT_S, state_filter=GcsNodeInfo.ALIVE)
    draining = client.get_draining_nodes()
    return {
        node_id.hex(): Node(
            info.node_manager_hostname,
            int(info.resources_total.get("GPU", 0)),
            node_id.hex() in draining,
        )
        for node_id, info in alive.items()
    }


def _reason(address: str, error: BaseException) -> str:
    """Why Ray could not join, and what to do."""
    text, cause = str(error), error.__cause__
    first_line = text.partition("\n")[0]
    while cause is not None:
        text, cause = f"{text}\n{cause}", cause.__cause__
    if "token" in text.lower():
        return (
            f"The cluster at {address} refuses this server's token. Set RAY_AUTH_TOKEN to that of "
            "its head."
        )
    if "No node info found" in text or "possible node ids" in text:
        return (
            "This machine is not a node of the cluster yet. Run 'ray start "
            f"--address={address} --num-cpus=0 --num-gpus=0' here."
        )
    if "Version mismatch" in text:
        return (
            f"The cluster at {address} runs another version of Ray or Python. Install the same "
            "requirements-cluster.txt on every machine."
        )
    return f"The cluster at {address} cannot be joined ({first_line})."
