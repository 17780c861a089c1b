"""Worker pool: as many GPU workers as jobs need and machines have.

Only the thread of the pool starts workers, and joins and leaves the cluster.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Self

import ray
from ray.exceptions import RayActorError

from svd_core.cluster.config import LOCAL_ENDED, ClusterConfig
from svd_core.cluster.connection import ClusterUnreachable, Connection
from svd_core.cluster.handle import LIVE, PLACED, UNUSED, State, WorkerHandle
from svd_core.cluster.placement import AvoidedNodes
from svd_core.cluster.roster import Roster, cluster_status
from svd_core.cluster.scaling import count_to_start, surplus
from svd_core.cluster.worker import (
    OpenWork,
    WorkerSettings,
    code_release,
    open_engine,
)
from svd_core.engine.engine import EngineStatus
from svd_core.errors import DeviceUnavailable, SvdError
from svd_core.jobs.interface import ExecutorLost

TICK_S = 0.1
"""Interval of the pool's thread in seconds."""

PING_S = 2.0
"""Seconds between two pings of an idle worker."""

RETRY_S = 1.0
"""Seconds until the next try to join the cluster."""

STRANDED_S = 15.0
"""Seconds after the loss of the last worker until this process rejoins the cluster. Ray gives no
worker to a process whose own node has died."""

LINGER_S = 60.0
"""Seconds to wait for running jobs after the loss of the connection. Ray's nodes live that long
without their head."""

CLOSE_TIMEOUT_S = 5.0

log = logging.getLogger(__name__)


class WorkerPool:
    """Workers of this process. Thread-safe. It does nothing before `start`.

    `open_work` is called on each worker. `release`: hash of the code that workers must run.
    `on_end` is called with a sentence when a local cluster has died. Executors take their workers
    from `roster`.
    """

    def __init__(
        self,
        config: ClusterConfig,
        settings: WorkerSettings,
        open_work: OpenWork = open_engine,
        *,
        release: str | None = None,
        on_end: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._settings = settings
        self._open_work = open_work
        self._release = release or code_release()
        self._on_end = on_end
        self._due = threading.Event()
        self._connection = Connection(config, self._due.set)
        self._unreachable = ""
        self.roster = Roster(self._connection, self._due.set)
        self._avoid = AvoidedNodes()
        self._cut_at: float | None = None
        self._closing = self.roster.closing
        self._thread = threading.Thread(target=self._run, name="svd-cluster", daemon=True)

    def start(self, backlog: Callable[[], int] = lambda: 0) -> Self:
        """Join the cluster. `backlog` counts waiting jobs: as many workers start if GPUs are free.

        Returns the pool. Raises `InvalidSettings` for a local cluster without GPUs.
        """
        self._backlog = backlog
        if self._config.is_local:
            self._connection.open()  # Ray starts processes only from the main thread
        self._thread.start()
        return self

    def lose(self, worker: WorkerHandle, error: BaseException) -> ExecutorLost:
        """Give up a worker after a failed call. Returns the exception for its executor."""
        cut = worker.state is State.GONE  # together with the connection
        self.roster.drop(worker)
        drained = cut or _is_drained(error) or self._connection.is_taken_away(worker.node)
        return ExecutorLost(f"{worker.host}: {_first_line(error)}", counted=not drained)

    @property
    def status(self) -> EngineStatus:
        """Status for the page."""
        with self.roster.changed:
            live = [worker.status for worker in self.roster.in_state(LIVE)]
            loading = len(self.roster.in_state((State.LOADING,)))
            error = self.roster.failures.error
            refused = self._avoid.refused_hosts(self._connection.nodes or {})
        return cluster_status(
            self._settings.model,
            [status for status in live if status is not None],
            loading,
            error,
            refused,
            unreachable=bool(self._unreachable) or self._connection.is_silent,
        )

    def close(self) -> None:
        """Give all GPUs back and leave the cluster. Call it after closing the executors."""
        self._closing.set()
        self._connection.stop()
        self._due.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_TIMEOUT_S)
        self.roster.wait_until_unused(CLOSE_TIMEOUT_S)
        if self._connection.is_open:
            self._connection.close()

    # -- the thread of the pool --------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._tick()
            except ClusterUnreachable as error:
                if str(error) != self._unreachable:
                    log.warning("%s", error)
                self._unreachable = str(error)
                self._closing.wait(RETRY_S)
            except Exception as error:  # noqa: BLE001 - only this thread starts workers
                log.error("The worker pool failed and retries. Please report this.", exc_info=error)
                self._closing.wait(RETRY_S)

    def _tick(self) -> None:
        if not self._connection.is_open:
            self._connection.open()
            self._unreachable = ""
        if self._connection.is_lost or self._is_stranded():
            if not self._is_lingering():
                self._leave()
            return
        self._cut_at = None
        self._take_answers()
        self._give_back()
        self._start_workers()
        self._wait()

    def _is_stranded(self) -> bool:
        roster = self.roster
        with roster.changed:
            if roster.lost_at is None or roster.in_state(PLACED) or not roster.workers:
                return False
            return time.monotonic() - roster.lost_at > STRANDED_S

    def _is_lingering(self) -> bool:
        """Whether to wait for running jobs, whose workers may still live."""
        now = time.monotonic()
        if self._cut_at is None:
            log.warning("Lost the connection to the cluster, joining it again.")
            self._unreachable, self._cut_at = "lost", now
        is_unused = self.roster.wait_until_unused(TICK_S)
        return not is_unused and now - self._cut_at < LINGER_S

    def _leave(self) -> None:
        """Leave the cluster once all executors have let go."""
        self._cut_at = None
        self.roster.abandon()
        if self._config.is_local:
            self._closing.set()
            self._on_end(LOCAL_ENDED)
        else:
            self._connection.close()

    def _take_answers(self) -> None:
        awaited = self.roster.awaited()
        if not awaited:
            return
        ready, _ = ray.wait(list(awaited), num_returns=len(awaited), timeout=0)
        for answer in ready:
            worker = awaited[answer]
            with self.roster.changed:
                if worker.answer != answer:
                    continue  # it was stopped, and a newer ping tells when it is free
                worker.answer, state = None, worker.state
            try:
                self._take(worker, state, ray.get(answer))
            except Exception as error:  # noqa: BLE001 - it has died or could not start
                self._take_error(worker, error)

    def _take(self, worker: WorkerHandle, state: State, answer: Any) -> None:
        """Process the answer of a worker to the call made in `state`."""
        roster = self.roster
        if state is State.PENDING:
            worker.node, worker.host = str(answer["node"]), str(answer["host"])
            if answer["release"] != self._release:
                self._refuse(worker)
                return
            worker.answer = worker.actor.load.remote(self._settings, self._open_work)
            worker.state = State.LOADING
        elif state is State.LOADING:
            if isinstance(answer, SvdError):
                self._fail(worker, answer)
                return
            with roster.changed:
                worker.status = answer
                roster.lost_at = None
                roster.failures.clear()
                self._avoid.succeed(worker.node)
                roster.set_idle(worker)
            log.info("A GPU worker on %s is ready (%s).", worker.host, answer.device)
        elif state is State.STOPPING:
            with roster.changed:
                roster.set_idle(worker)

    def _take_error(self, worker: WorkerHandle, error: Exception) -> None:
        """Remove a worker that has died. If it runs a job, its executor does so."""
        raised = not isinstance(error, RayActorError) or error.actor_init_failed
        loading = worker.state is State.LOADING and not _is_drained(error)
        if loading or (worker.state is State.PENDING and raised):
            values = {"host": worker.host, "reason": _first_line(error)}
            self._fail(worker, DeviceUnavailable("worker_failed_to_start", **values))
        elif worker.state is not State.RUNNING:
            log.warning("Lost a GPU worker on %s: %s", worker.host, _first_line(error))
            self.roster.drop(worker)

    def _refuse(self, worker: WorkerHandle) -> None:
        """Give back a GPU whose machine runs other code."""
        log.warning(
            "The machine %s runs another release of this program, so it gets no jobs. Install the "
            "server's release there and restart it.", worker.host,
        )  # fmt: skip
        with self.roster.changed:
            self._avoid.refuse(worker.node, worker.host)
            self.roster.remove(worker)

    def _fail(self, worker: WorkerHandle, error: SvdError) -> None:
        """Avoid a node that cannot load the checkpoint, and count the failure."""
        log.warning("A GPU worker on %s cannot start: %s", worker.host, error.message)
        with self.roster.changed:
            self.roster.remove(worker)
            if worker.node:
                self._avoid.fail(worker.node)
            self.roster.failures.add(error)

    def _give_back(self) -> None:
        """Give back surplus workers and those on nodes that leave or are avoided; ping the rest."""
        roster, now = self.roster, time.monotonic()
        with roster.changed:
            avoided = self._avoid.avoided(self._connection.nodes or {})
            for worker in roster.in_state((State.PENDING, *UNUSED)):
                is_pending = worker.state is State.PENDING
                if worker.avoided != avoided if is_pending else roster.is_leaving(worker):
                    roster.remove(worker)
            for worker in surplus(self._config, roster.workers, roster.demand):
                roster.remove(worker)
            for worker in roster.in_state(UNUSED):
                if worker.answer is None and now - worker.called_at > PING_S:
                    worker.ping()

    def _start_workers(self) -> None:
        roster, nodes, backlog = self.roster, self._connection.nodes, self._backlog()
        if nodes is None:
            return  # starting a worker would block without a head
        with roster.changed:
            if not roster.failures.may_retry:
                return
            is_needed = bool(roster.demand.waiting) and roster.next_idle() is None
            avoided = self._avoid.avoided(nodes)
            count = count_to_start(
                self._config, roster.workers, nodes, avoided, backlog if is_needed else None
            )
        for _ in range(count):
            roster.add(WorkerHandle.start(avoided))

    def _wait(self) -> None:
        """Wait for an answer, for an executor, or for the next tick."""
        if self._due.is_set():
            pass
        elif awaited := self.roster.awaited():
            ray.wait(list(awaited), timeout=TICK_S)
        else:
            self._due.wait(TICK_S)
        self._due.clear()


def _is_drained(error: BaseException) -> bool:
    """Whether a worker was lost because its machine was drained."""
    return isinstance(error, RayActorError) and error.preempted


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
