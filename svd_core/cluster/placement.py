"""Placement of workers: the nodes of the cluster, and which of them are avoided."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

AVOID_S = 60.0
"""Seconds for which a node is avoided where the checkpoint could not be loaded."""

NODE_ID = "ray.io/node-id"
"""Ray's own label of a node."""


@dataclass(frozen=True)
class Node:
    """A living machine of the cluster. `draining`: it is about to leave."""

    host: str
    gpus: int
    draining: bool = False


Nodes = Mapping[str, Node]
"""Living nodes by their ids."""


class AvoidedNodes:
    """Nodes where a worker failed, or was refused: they get no new one. Not thread-safe.

    A node is refused for good: when its machine gets other code, it joins as a new node.
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
        """Avoid a node for as long as it lives."""
        self._refused[node] = host

    def refused_hosts(self, nodes: Nodes) -> list[str]:
        """The hosts among the living `nodes` that run other code."""
        return sorted({host for node, host in self._refused.items() if node in nodes})

    def avoided(self, nodes: Nodes) -> frozenset[str]:
        """Those of `nodes` to avoid. Where no other has a GPU, failed ones are tried again."""
        now = self._clock()
        self._failed = {node: until for node, until in self._failed.items() if until > now}
        refused = self._refused.keys() & nodes.keys()
        failed = self._failed.keys() & nodes.keys()
        others = {node for node, about in nodes.items() if about.gpus} - refused - failed
        return frozenset(refused | failed if others else refused)


def label_selector(avoided: frozenset[str]) -> dict[str, str] | None:
    """Ray's selector for all nodes but these."""
    return {NODE_ID: f"!in({','.join(sorted(avoided))})"} if avoided else None
