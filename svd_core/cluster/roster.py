"""Roster: the workers of a pool, which its thread and the executors share.

An executor acquires a worker that has nothing to do, runs a job on it, and lets it go again.
"""

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from ray import ObjectRef

from svd_core.cluster.connection import Connection
from svd_core.cluster.failures import StartFailures
from svd_core.cluster.handle import LIVE, PLACED, State, WorkerHandle
from svd_core.cluster.scaling import Demand

POLL_S = 0.25
"""Seconds between two looks of an executor at whether it is still needed."""

SILENT_S = 1.0
"""Seconds without an answer to a ping after which a worker gets no job."""


class Roster:
    """Workers and their states. Thread-safe.

    `changed`: the lock around all of it, notified with each change. `failures` and `demand` are
    used with the lock too. `running`: how many executors may make calls of workers now. `lost_at`:
    when a worker was lost, until another one starts.
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
        """Wait for a worker that has nothing to do; None once `is_needed()` is false.

        Raises the `SvdError` for which some workers in a row could not be loaded.
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
        """Mark a held worker as running a job. False if it has been taken away meanwhile."""
        with self.changed:
            if worker.state is not State.HELD:
                return False
            worker.state = State.RUNNING
            self.running += 1
            return True

    def stop(self, worker: WorkerHandle) -> None:
        """Mark a worker whose call was cancelled; it is free when it answers a ping."""
        with self.changed:
            if worker.state is State.RUNNING:
                worker.ping()
                worker.state = State.STOPPING
        self._on_demand()

    def end(self, worker: WorkerHandle) -> None:
        """Take note that the executor makes no call of a worker any more."""
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
        """Whether its executor has to let go: no call of it will be answered."""
        return worker.state is State.GONE or self.closing.is_set()

    def add(self, worker: WorkerHandle) -> None:
        with self.changed:
            self.workers.append(worker)

    def drop(self, worker: WorkerHandle) -> None:
        """Forget a worker that has failed."""
        with self.changed:
            if worker.state in PLACED:
                self.lost_at = time.monotonic()
            self.remove(worker)

    def abandon(self) -> None:
        """Forget all workers, which end with the connection, and wait until executors let go."""
        with self.changed:
            self.lost_at = None
            for worker in self.workers:
                worker.state = State.GONE
            self.workers.clear()
            self.changed.notify_all()
            self.changed.wait_for(lambda: not self.running)

    def wait_until_unused(self, timeout_s: float) -> bool:
        """Whether no executor makes calls any more, at the latest after `timeout_s`."""
        with self.changed:
            return self.changed.wait_for(lambda: not self.running, timeout_s)

    def awaited(self) -> "dict[ObjectRef[Any], WorkerHandle]":
        """The workers whose answers are waited for, by their calls."""
        with self.changed:
            return {worker.answer: worker for worker in self.workers if worker.answer is not None}

    # -- with the lock -----------------------------------------------------------------------------

    def in_state(self, states: Iterable[State]) -> list[WorkerHandle]:
        return [worker for worker in self.workers if worker.state in states]

    def next_idle(self) -> WorkerHandle | None:
        """The idle worker that was used last, so that others give their GPUs back; none whose
        machine is silent or leaves."""
        if self._connection.is_lost:
            return None
        now = time.monotonic()
        idle = [
            worker
            for worker in self.in_state((State.IDLE,))
            if not self.is_leaving(worker)
            and (worker.answer is None or now - worker.asked < SILENT_S)
        ]
        return max(idle, key=lambda worker: worker.used, default=None)

    def is_leaving(self, worker: WorkerHandle) -> bool:
        """Whether the machine of a worker is drained."""
        node = (self._connection.nodes or {}).get(worker.node)
        return node is not None and node.draining

    def set_idle(self, worker: WorkerHandle) -> None:
        worker.state, worker.used = State.IDLE, time.monotonic()
        self.changed.notify_all()

    def remove(self, worker: WorkerHandle) -> None:
        """Forget a worker and free its GPU."""
        with suppress(ValueError):
            self.workers.remove(worker)
        worker.end()
        self.changed.notify_all()
