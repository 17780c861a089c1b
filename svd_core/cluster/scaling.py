"""Scaling: how many workers to start, and which ones to give back.

While jobs wait, one more worker is always pending. So a new machine is used the moment it joins,
and Ray's autoscaler sees a demand.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from svd_core.cluster.config import ClusterConfig
from svd_core.cluster.handle import PLACED, UNUSED, State, WorkerHandle
from svd_core.cluster.placement import Nodes

WITHDRAW_S = 5.0
"""Seconds without a waiting job after which a pending worker is withdrawn."""

STOP_TIMEOUT_S = 120.0
"""Seconds until a worker with a cancelled job must be free. Some steps take a minute."""


@dataclass
class Demand:
    """Number of executors that wait for a worker. `waited`: monotonic time of the last end."""

    waiting: int = 0
    waited: float = 0.0

    def add(self) -> None:
        self.waiting += 1

    def remove(self) -> None:
        self.waiting -= 1
        self.waited = time.monotonic()

    @property
    def has_ended(self) -> bool:
        return not self.waiting and time.monotonic() - self.waited > WITHDRAW_S


def count_to_start(
    config: ClusterConfig,
    workers: Sequence[WorkerHandle],
    nodes: Nodes,
    avoided: Collection[str],
    backlog: int | None,
) -> int:
    """The number of workers to start now: up to the minimum, and more while jobs wait.

    `backlog`: waiting jobs; None if they need no more workers. As many workers start as jobs wait
    and GPUs are free, and at least one.
    """
    states = [worker.state for worker in workers]
    placed, pending = sum(state in PLACED for state in states), states.count(State.PENDING)
    wanted = config.least - placed
    if backlog is not None:
        gpus = sum(node.gpus for name, node in nodes.items() if name not in avoided)
        wanted = max(wanted, 1, min(backlog - states.count(State.LOADING), gpus - placed))
    return max(min(wanted, config.most - placed) - pending, 0)


def surplus(
    config: ClusterConfig, workers: Sequence[WorkerHandle], demand: Demand
) -> list[WorkerHandle]:
    """The workers to give back: idle ones above the minimum, pending ones that no job needs, and
    those that a cancelled job blocks."""
    now = time.monotonic()
    placed = sum(worker.state in PLACED for worker in workers)
    spare = len(workers) - config.least
    surplus_workers: list[WorkerHandle] = []
    for worker in sorted(workers, key=lambda worker: worker.used_at):
        idle = worker.state in UNUSED and now - worker.used_at > config.idle_s
        if worker.state is State.STOPPING and now - worker.called_at > STOP_TIMEOUT_S:
            surplus_workers.append(worker)
        elif worker.state is State.PENDING and demand.has_ended and spare > 0:
            surplus_workers.append(worker)
            spare -= 1
        elif idle and placed > config.least:
            surplus_workers.append(worker)
            placed -= 1
            spare -= 1
    return surplus_workers
