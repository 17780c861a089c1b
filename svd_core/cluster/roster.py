"""Roster: the workers of a pool, shared by its thread and the executors, and their status.

An executor acquires an idle worker, runs a job on it, and releases it.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from typing import Any

from ray import ObjectRef

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.cluster.connection import Connection
from svd_core.cluster.handle import LIVE, PLACED, State, WorkerHandle
from svd_core.cluster.placement import StartFailures
from svd_core.cluster.scaling import Demand
from svd_core.engine.engine import EngineStatus
from svd_core.errors import SvdError
from svd_core.messages import Message

POLL_S = 0.25
"""Seconds between two checks of an executor whether it is still needed."""

SILENT_S = 1.0
"""Seconds of an unanswered ping after which a worker gets no job."""


class Roster:
    """Workers and their states. Thread-safe.

    `changed`: lock of everything here, `failures` and `demand` included; notified at each change.
    `running`: number of executors that may call workers now. `lost_at`: time of the last loss of a
    worker; None once another one has started.
    """

    def __init__(self, connection: Connection, on_demand: Callable[[], None]) -> None:
        self.changed = threading.Condition()
        self.workers: list[WorkerHandle] = []
        self.failures = StartFailures()
        self.demand = Demand()
        self.closing = threading.Event()
        self.running = 0
        self.lost_at: float | None = None
        self._connection = connection
        self._on_demand = on_demand

    def acquire(self, is_needed: Callable[[], bool]) -> WorkerHandle | None:
        """Wait for an idle worker; None once `is_needed()` is false.

        Raises the `SvdError` with which consecutive workers failed to start.
        """
        with self.changed:
            if not self.demand.waiting and not self.in_state(LIVE):
                self.failures.retry_now()
            self.demand.add()
        self._on_demand()
        try:
            while is_needed() and not self.closing.is_set():
                with self.changed:
                    if (worker := self.next_idle()) is not None:
                        worker.state = State.HELD
                        return worker
                    if self.failures.exhausted and not self.in_state(PLACED):
                        raise self.failures.take()
                    self.changed.wait(POLL_S)
            return None
        finally:
            with self.changed:
                self.demand.remove()

    def begin(self, worker: WorkerHandle) -> bool:
        """Mark a held worker as running a job. Returns False if it is no longer held."""
        with self.changed:
            if worker.state is not State.HELD:
                return False
            worker.state = State.RUNNING
            self.running += 1
            return True

    def stop(self, worker: WorkerHandle) -> None:
        """Mark a worker whose call was cancelled. It is free when it answers a ping."""
        with self.changed:
            if worker.state is State.RUNNING:
                worker.ping()
                worker.state = State.STOPPING
        self._on_demand()

    def end(self, worker: WorkerHandle) -> None:
        """Mark a worker that its executor no longer calls."""
        with self.changed:
            self.running -= 1
            if worker.state is State.RUNNING:
                self.set_idle(worker)
            self.changed.notify_all()

    def release(self, worker: WorkerHandle) -> None:
        """Return a held worker."""
        with self.changed:
            if worker.state is State.HELD:
                worker.state = State.IDLE
                self.changed.notify_all()

    def is_gone(self, worker: WorkerHandle) -> bool:
        """Whether its executor must let go, since it answers no more calls."""
        return worker.state is State.GONE or self.closing.is_set()

    def add(self, worker: WorkerHandle) -> None:
        with self.changed:
            self.workers.append(worker)

    def drop(self, worker: WorkerHandle) -> None:
        """Remove a worker that has failed."""
        with self.changed:
            if worker.state in PLACED:
                self.lost_at = time.monotonic()
            self.remove(worker)

    def abandon(self) -> None:
        """Remove all workers, which end with the connection, and wait until executors let go."""
        with self.changed:
            self.lost_at = None
            for worker in self.workers:
                worker.state = State.GONE
            self.workers.clear()
            self.changed.notify_all()
            self.changed.wait_for(lambda: not self.running)

    def wait_until_unused(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` until no executor makes calls. Returns whether that is so."""
        with self.changed:
            return self.changed.wait_for(lambda: not self.running, timeout_s)

    def awaited(self) -> "dict[ObjectRef[Any], WorkerHandle]":
        """The workers with a pending call, by that call."""
        with self.changed:
            return {worker.answer: worker for worker in self.workers if worker.answer is not None}

    # -- with the lock -----------------------------------------------------------------------------

    def in_state(self, states: Iterable[State]) -> list[WorkerHandle]:
        return [worker for worker in self.workers if worker.state in states]

    def next_idle(self) -> WorkerHandle | None:
        """The idle worker that was used last, so that others give their GPUs back.

        Workers on silent or draining machines are left out.
        """
        if self._connection.is_lost:
            return None
        now = time.monotonic()
        idle = [
            worker
            for worker in self.in_state((State.IDLE,))
            if not self.is_leaving(worker)
            and (worker.answer is None or now - worker.called_at < SILENT_S)
        ]
        return max(idle, key=lambda worker: worker.used_at, default=None)

    def is_leaving(self, worker: WorkerHandle) -> bool:
        """Whether the machine of a worker is drained."""
        node = (self._connection.nodes or {}).get(worker.node)
        return node is not None and node.draining

    def set_idle(self, worker: WorkerHandle) -> None:
        worker.state, worker.used_at = State.IDLE, time.monotonic()
        self.changed.notify_all()

    def remove(self, worker: WorkerHandle) -> None:
        """Remove a worker and free its GPU."""
        with suppress(ValueError):
            self.workers.remove(worker)
        worker.end()
        self.changed.notify_all()


def cluster_status(
    model: str,
    live: Sequence[EngineStatus],
    loading: int = 0,
    error: SvdError | None = None,
    refused: Sequence[str] = (),
    *,
    unreachable: bool = False,
) -> EngineStatus:
    """The status of a cluster that runs `model`.

    `live`: status of each worker that can run jobs. `loading`: number of workers that load.
    `error`: of the last failed start. `refused`: hosts that run other code.
    """
    if live:
        catalog = next((each.catalog for each in live if each.catalog.stand_in is None), None)
        return replace(
            live[-1],
            device=device_text(live),
            catalog=catalog or live[-1].catalog,
            workers=len(live),
        )
    catalog = ModelCatalog.from_setting(model, cuda=True)
    failed = error is not None and not loading
    notice: str | None = None
    if unreachable:
        notice = Message("cluster_unreachable")
    elif error is not None and failed:
        notice = error.message
    elif refused and not loading:
        notice = Message("worker_other_release", host=refused[0])
    return EngineStatus(
        checkpoint=catalog.default,
        device="",
        state="failed" if failed else "loading",
        catalog=catalog,
        notice=notice,
        workers=loading,
    )


def device_text(live: Sequence[EngineStatus]) -> Message:
    """E.g. "3 x NVIDIA L4, 24 GB" or "2 x NVIDIA L4, 24 GB + 1 x NVIDIA H100, 80 GB"."""
    counts = Counter(status.device for status in live).most_common()
    texts = [Message("device_several", count=count, device=device) for device, count in counts]
    return reduce(lambda first, second: Message("devices", first=first, second=second), texts)
