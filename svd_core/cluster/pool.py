"""Worker pool: as many GPU workers as the jobs need and the machines give.

Only the thread of the pool starts workers, and joins and leaves the cluster.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayActorError

from svd_core.cluster.config import LOCAL_ENDED, ClusterConfig
from svd_core.cluster.connection import ClusterUnreachable, Connection
from svd_core.cluster.handle import LIVE, PLACED, UNUSED, State, WorkerHandle
from svd_core.cluster.placement import AvoidedNodes
from svd_core.cluster.release import code_release
from svd_core.cluster.roster import Roster
from svd_core.cluster.scaling import count_to_start, surplus
from svd_core.cluster.status import cluster_status
from svd_core.cluster.worker import OpenWork, WorkerSettings, open_engine, start_error
from svd_core.engine.engine import EngineStatus
from svd_core.errors import SvdError
from svd_core.jobs.executor import ExecutorLost

TICK_S = 0.1
"""Seconds between two looks of the pool at what is due."""

PING_S = 2.0
"""Seconds between two pings of an idle worker."""

RETRY_S = 1.0
"""Seconds until the next try to join the cluster."""

STRANDED_S = 15.0
"""Seconds without a worker after one was lost: then this process joins the cluster again. Ray gives
no new worker to a process whose own node has died."""

LINGER_S = 60.0
"""Seconds for which running jobs are waited for after the connection was lost. Ray's nodes live on
without their head for as long."""

CLOSE_TIMEOUT_S = 5.0

log = logging.getLogger(__name__)


class WorkerPool:
    """Workers of this process. Thread-safe.

    `open_work` is called on each worker. `release` is the only code that workers may run. `on_end`
    is called with a sentence when the cluster of this machine, a part of this process, has died.
    Executors take their workers from `roster`.
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
        self._backlog: Callable[[], int] = lambda: 0
        self._avoid = AvoidedNodes()
        self._cut_at: float | None = None
        self._closing = self.roster.closing
        self._thread = threading.Thread(target=self._run, name="svd-cluster", daemon=True)
        if config.is_local:
            self._connection.open()  # Ray starts processes, which it does in the main thread only
        self._thread.start()

    def follow(self, backlog: Callable[[], int]) -> None:
        """Let the pool know how many jobs wait, so that it starts as many workers at once where
        machines have free GPUs."""
        self._backlog = backlog

    def lose(self, worker: WorkerHandle, error: BaseException) -> ExecutorLost:
        """Give up a worker of which a call failed. Returns what its executor has to raise."""
        cut = worker.state is State.GONE  # together with the connection
        self.roster.drop(worker)
        blameless = cut or _is_drained(error) or self._connection.is_taken_away(worker.node)
        return ExecutorLost(f"{worker.host}: {_first_line(error)}", counted=not blameless)

    @property
    def status(self) -> EngineStatus:
        """What the page shows."""
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
        """Give all GPUs back and leave the cluster. The executors have let go by now."""
        self._closing.set()
        self._connection.stop()
        self._due.set()
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
            except Exception as error:  # noqa: BLE001 - without this thread no worker is started
                log.error("The worker pool goes on after an error.", exc_info=error)
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
        """Whether running jobs are waited for, whose workers may live on for a while."""
        now = time.monotonic()
        if self._cut_at is None:
            log.warning("The connection to the cluster is lost; joining it again.")
            self._unreachable, self._cut_at = "lost", now
        is_unused = self.roster.wait_until_unused(TICK_S)
        return not is_unused and now - self._cut_at < LINGER_S

    def _leave(self) -> None:
        """Leave the cluster once all executors have let go, to join it again."""
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
                    continue  # it was stopped meanwhile, and answers another ping when it is free
                worker.answer, state = None, worker.state
            try:
                self._take(worker, state, ray.get(answer))
            except Exception as error:  # noqa: BLE001 - it has died, or could not start
                self._take_error(worker, error)

    def _take(self, worker: WorkerHandle, state: State, answer: Any) -> None:
        """Go on with a worker that has answered in this state."""
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
        """Go on without a worker that has died. While it runs a job, its executor hears of it."""
        raised = not isinstance(error, RayActorError) or error.actor_init_failed
        loading = worker.state is State.LOADING and not _is_drained(error)
        if loading or (worker.state is State.PENDING and raised):
            self._fail(worker, start_error(worker.host, _first_line(error)))
        elif worker.state is not State.RUNNING:
            log.warning("A GPU worker on %s is gone: %s", worker.host, _first_line(error))
            self.roster.drop(worker)

    def _refuse(self, worker: WorkerHandle) -> None:
        """Give back a GPU whose machine runs other code."""
        log.warning(
            "The machine %s runs another release of this program, so it gets no jobs; install the "
            "release of the server there, and start it again.", worker.host,
        )  # fmt: skip
        with self.roster.changed:
            self._avoid.refuse(worker.node, worker.host)
            self.roster.remove(worker)

    def _fail(self, worker: WorkerHandle, error: SvdError) -> None:
        """Try the checkpoint elsewhere, and give up a job after some failures in a row."""
        log.warning("A GPU worker on %s cannot run: %s", worker.host, error.message)
        with self.roster.changed:
            self.roster.remove(worker)
            if worker.node:
                self._avoid.fail(worker.node)
            self.roster.failures.add(error)

    def _give_back(self) -> None:
        """Give back what is not needed, and what is on a machine to avoid or that leaves. Ping
        the idle ones that stay."""
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
                if worker.answer is None and now - worker.asked > PING_S:
                    worker.ping()

    def _start_workers(self) -> None:
        roster, nodes, backlog = self.roster, self._connection.nodes, self._backlog()
        if nodes is None:
            return  # without a head, starting one would block
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
    """Whether a worker was lost since its machine was taken away."""
    return isinstance(error, RayActorError) and error.preempted


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
