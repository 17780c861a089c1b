"""Placement of workers: the nodes of the cluster, which of them to avoid, and start failures."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from svd_core.errors import SvdError

AVOID_S = 60.0
"""Seconds to avoid a node that could not load the checkpoint."""

MAX_FAILURES = 3
"""Consecutive failures after which a job fails with the last error."""

BACKOFF_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds until the next start, by the number of consecutive failures."""

NODE_ID = "ray.io/node-id"
"""Ray's own label of a node."""


@dataclass(frozen=True)
class Node:
    """A living machine of the cluster. `draining`: about to leave."""

    host: str
    gpus: int
    draining: bool = False


Nodes = Mapping[str, Node]
"""Living nodes by their ids."""


class AvoidedNodes:
    """Nodes that get no new worker after a failure or refusal. Not thread-safe.

    A node is refused for good: with other code, its machine joins as a new node.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: dict[str, float] = {}
        self._refused: dict[str, str] = {}

    def fail(self, node: str) -> None:
        """Avoid a node for a while."""
        self._failed[node] = self._clock() + AVOID_S

    def succeed(self, node: str) -> None:
        self._failed.pop(node, None)

    def refuse(self, node: str, host: str) -> None:
        """Avoid a node for good."""
        self._refused[node] = host

    def refused_hosts(self, nodes: Nodes) -> list[str]:
        """Hosts of the refused nodes among `nodes`."""
        return sorted({host for node, host in self._refused.items() if node in nodes})

    def avoided(self, nodes: Nodes) -> frozenset[str]:
        """Those of `nodes` to avoid. Failed ones are tried again if no other has a GPU."""
        now = self._clock()
        self._failed = {node: until for node, until in self._failed.items() if until > now}
        refused = self._refused.keys() & nodes.keys()
        failed = self._failed.keys() & nodes.keys()
        others = {node for node, about in nodes.items() if about.gpus} - refused - failed
        return frozenset(refused | failed if others else refused)


def label_selector(avoided: frozenset[str]) -> dict[str, str] | None:
    """Ray's selector for all other nodes."""
    return {NODE_ID: f"!in({','.join(sorted(avoided))})"} if avoided else None


class StartFailures:
    """Consecutive start failures, with backoff. Not thread-safe.

    `error`: the last one; None after a success. `may_retry`: whether the backoff is over.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._count = 0
        self._retry_at = 0.0
        self.error: SvdError | None = None

    @property
    def may_retry(self) -> bool:
        return self._clock() >= self._retry_at

    @property
    def exhausted(self) -> bool:
        """Whether a job must fail with `error`."""
        return self._count >= MAX_FAILURES

    def add(self, error: SvdError) -> None:
        self._count += 1
        self.error = error
        delay_s = BACKOFF_S[min(self._count, len(BACKOFF_S)) - 1]
        self._retry_at = self._clock() + delay_s

    def take(self) -> SvdError:
        """The error for a job to fail with. The next job gets as many tries."""
        assert self.error is not None
        self._count = 0
        return self.error

    def retry_now(self) -> None:
        """Skip the backoff, since a job arrived after a while without one."""
        self._count, self._retry_at = 0, 0.0

    def clear(self) -> None:
        """A worker has started."""
        self._count, self.error = 0, None
