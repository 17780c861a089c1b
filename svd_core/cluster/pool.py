"""Worker pool: as many GPU workers as the jobs need and the machines give.

While jobs wait, one worker more is pending than is placed. So a new machine is used the moment it
joins, and the pending worker is the demand that Ray's autoscaler sees. Idle workers above the least
give their GPUs back. Only the thread of the pool starts workers, and leaves the cluster.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import RayActorError

from svd_core.cluster.config import LOCAL_ENDED, ClusterConfig
from svd_core.cluster.connection import ClusterUnreachable, Connection
from svd_core.cluster.handle import LIVE, PLACED, UNUSED, State, WorkerHandle
from svd_core.cluster.placement import AvoidedNodes
from svd_core.cluster.release import code_release
from svd_core.cluster.status import cluster_status
from svd_core.cluster.worker import OpenWork, WorkerSettings, open_engine, start_error
from svd_core.engine.engine import EngineStatus
from svd_core.errors import SvdError
from svd_core.jobs.executor import ExecutorLost

TICK_S = 0.1
"""Seconds between two looks of the pool at what is due."""

POLL_S = 0.25
"""Seconds between two looks of an executor at whether it is still needed."""

PING_S = 2.0
"""Seconds between two pings of an idle worker."""

SILENT_S = 1.0
"""Seconds without an answer to a ping after which a worker gets no job."""

RETRY_S = 1.0
"""Seconds until the next try to join the cluster."""

STRANDED_S = 15.0
"""Seconds without a worker after one was lost: then this process joins the cluster again. Ray gives
no new worker to a process whose own node has died."""

LINGER_S = 60.0
"""Seconds for which running jobs are waited for after the connection was lost. Ray's nodes live on
without their head for as long."""

WITHDRAW_S = 5.0
"""Seconds without a waiting job after which a pending worker is withdrawn."""

MAX_FAILURES = 3
"""Workers in a row that could not load the checkpoint: then a job fails with that error."""

BACKOFF_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds until the next worker is started, by the number of failures in a row."""

CLOSE_TIMEOUT_S = 5.0

log = logging.getLogger(__name__)


class WorkerPool:
    """Workers of this process. Thread-safe.

    `open_work` is called on each worker. `release` is the only code that workers may run. `on_end`
    is called with a sentence when the cluster of this machine, a part of this process, has died.
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
        self._changed = threading.Condition()
        self._workers: list[WorkerHandle] = []
        self._backlog: Callable[[], int] = lambda: 0
        self._running = 0
        self._waiting = 0
        self._waited = 0.0
        self._avoid = AvoidedNodes()
        self._failures = 0
        self._error: SvdError | None = None
        self._retry_at = 0.0
        self._lost_at: float | None = None
        self._cut_at: float | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="svd-cluster", daemon=True)
        if config.is_local:
            self._connection.open()  # Ray starts processes, which it does in the main thread only
        self._thread.start()

    def follow(self, backlog: Callable[[], int]) -> None:
        """Let the pool know how many jobs wait, so that it starts as many workers at once where
        machines have free GPUs."""
        self._backlog = backlog

    # -- what executors call -----------------------------------------------------------------------

    def acquire(self, is_needed: Callable[[], bool]) -> WorkerHandle | None:
        """Wait for a worker that has nothing to do; None once `is_needed()` is false.

        Raises the `SvdError` for which `MAX_FAILURES` workers in a row could not be loaded.
        """
        with self._changed:
            if not self._waiting and not self._with(LIVE):
                self._failures, self._retry_at = 0, 0.0
            self._waiting += 1
        self._due.set()
        try:
            while is_needed() and not self._closing.is_set():
                with self._changed:
                    if (worker := self._next_idle()) is not None:
                        worker.state = State.HELD
                        return worker
                    if self._failures >= MAX_FAILURES and not self._with(PLACED):
                        assert self._error is not None
                        self._failures = 0
                        raise self._error
                    self._changed.wait(POLL_S)
            return None
        finally:
            with self._changed:
                self._waiting -= 1
                self._waited = time.monotonic()

    def begin(self, worker: WorkerHandle) -> bool:
        """Mark a held worker as running a job. False if it has been taken away meanwhile."""
        with self._changed:
            if worker.state is not State.HELD:
                return False
            worker.state = State.RUNNING
            self._running += 1
            return True

    def end(self, worker: WorkerHandle) -> None:
        """Take note that the executor makes no call of a worker any more."""
        with self._changed:
            self._running -= 1
            if worker.state is State.RUNNING:
                worker.state, worker.used = State.IDLE, time.monotonic()
            self._changed.notify_all()

    def release(self, worker: WorkerHandle) -> None:
        """Return a held worker."""
        with self._changed:
            if worker.state is State.HELD:
                worker.state = State.IDLE
                self._changed.notify_all()

    def lose(self, worker: WorkerHandle, error: BaseException) -> ExecutorLost:
        """Give up a worker of which a call failed. Returns what its executor has to raise."""
        with self._changed:
            cut = worker.state is State.GONE  # together with the connection
            if worker.state in PLACED:
                self._lost_at = time.monotonic()
            self._remove(worker)
        blameless = cut or _is_drained(error) or self._connection.is_taken_away(worker.node)
        return ExecutorLost(f"{worker.host}: {_first_line(error)}", counted=not blameless)

    def is_gone(self, worker: WorkerHandle) -> bool:
        """Whether its executor has to let go: no call of it will be answered."""
        return worker.state is State.GONE or self._closing.is_set()

    # -- what the page asks ------------------------------------------------------------------------

    @property
    def status(self) -> EngineStatus:
        with self._changed:
            live = [worker.status for worker in self._with(LIVE) if worker.status is not None]
            loading = len(self._with((State.LOADING,)))
            error = self._error if self._failures else None
            refused = self._avoid.refused_hosts(self._connection.nodes or {})
        unreachable = bool(self._unreachable) or self._connection.is_silent
        return cluster_status(
            self._settings.model, live, loading, error, refused, unreachable=unreachable
        )

    def close(self) -> None:
        """Give all GPUs back and leave the cluster. The executors have let go by now."""
        self._closing.set()
        self._connection.stop()
        self._due.set()
        self._thread.join(CLOSE_TIMEOUT_S)
        with self._changed:
            self._changed.wait_for(lambda: not self._running, CLOSE_TIMEOUT_S)
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
        with self._changed:
            if self._lost_at is None or self._with(PLACED) or not self._workers:
                return False
            return time.monotonic() - self._lost_at > STRANDED_S

    def _is_lingering(self) -> bool:
        """Whether running jobs are waited for, whose workers may live on for a while."""
        now = time.monotonic()
        if self._cut_at is None:
            log.warning("The connection to the cluster is lost; joining it again.")
            self._unreachable, self._cut_at = "lost", now
        with self._changed:
            self._changed.wait_for(lambda: not self._running, POLL_S)
            return bool(self._running) and now - self._cut_at < LINGER_S

    def _leave(self) -> None:
        """Leave the cluster once all executors have let go, to join it again."""
        self._lost_at = self._cut_at = None
        with self._changed:
            for worker in self._workers:
                worker.state = State.GONE
            self._workers.clear()
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._running)
        if self._config.is_local:
            self._closing.set()
            self._on_end(LOCAL_ENDED)
        else:
            self._connection.close()

    def _take_answers(self) -> None:
        awaited = self._awaited()
        if not awaited:
            return
        ready, _ = ray.wait(list(awaited), num_returns=len(awaited), timeout=0)
        for answer in ready:
            worker = awaited[answer]
            worker.answer = None
            try:
                self._take(worker, ray.get(answer))
            except Exception as error:  # noqa: BLE001 - it has died, or could not start
                self._take_error(worker, error)

    def _take(self, worker: WorkerHandle, answer: Any) -> None:
        """Go on with a worker that has answered: to its description, to `load`, or to a ping."""
        if worker.state is State.PENDING:
            worker.node, worker.host = str(answer["node"]), str(answer["host"])
            if answer["release"] != self._release:
                self._refuse(worker)
                return
            worker.answer = worker.actor.load.remote(self._settings, self._open_work)
            worker.state = State.LOADING
        elif worker.state is State.LOADING:
            if isinstance(answer, SvdError):
                self._fail(worker, answer)
                return
            with self._changed:
                worker.status, worker.state, worker.used = answer, State.IDLE, time.monotonic()
                self._failures, self._lost_at = 0, None
                self._avoid.succeed(worker.node)
                self._changed.notify_all()
            log.info("A GPU worker on %s is ready (%s).", worker.host, answer.device)

    def _take_error(self, worker: WorkerHandle, error: Exception) -> None:
        """Go on without a worker that has died. While it runs a job, its executor hears of it."""
        raised = not isinstance(error, RayActorError) or error.actor_init_failed
        loading = worker.state is State.LOADING and not _is_drained(error)
        if loading or (worker.state is State.PENDING and raised):
            self._fail(worker, start_error(worker.host, _first_line(error)))
        elif worker.state is not State.RUNNING:
            log.warning("A GPU worker on %s is gone: %s", worker.host, _first_line(error))
            self.lose(worker, error)

    def _refuse(self, worker: WorkerHandle) -> None:
        """Give back a GPU whose machine runs other code."""
        log.warning(
            "The machine %s runs another release of this program, so it gets no jobs; install the "
            "release of the server there, and start it again.", worker.host,
        )  # fmt: skip
        with self._changed:
            self._avoid.refuse(worker.node, worker.host)
            self._remove(worker)

    def _fail(self, worker: WorkerHandle, error: SvdError) -> None:
        """Try the checkpoint elsewhere, and give up a job after some failures in a row."""
        log.warning("A GPU worker on %s cannot run: %s", worker.host, error.message)
        with self._changed:
            self._remove(worker)
            if worker.node:
                self._avoid.fail(worker.node)
            self._failures += 1
            self._error = error
            delay_s = BACKOFF_S[min(self._failures, len(BACKOFF_S)) - 1]
            self._retry_at = time.monotonic() + delay_s

    def _give_back(self) -> None:
        """Give back what is not needed: idle workers above the least, withdrawn pending ones, and
        those whose machine leaves. Ping the idle ones that stay."""
        now = time.monotonic()
        with self._changed:
            avoided = self._avoid.avoided(self._connection.nodes or {})
            spare = len(self._workers) - self._config.least
            for worker in sorted(self._workers, key=lambda worker: worker.used):
                unused, pending = worker.state in UNUSED, worker.state is State.PENDING
                withdrawn = pending and not self._waiting and now - self._waited > WITHDRAW_S
                idle = unused and now - worker.used > self._config.idle_s
                moved = pending and worker.avoided != avoided
                if moved or (unused and self._is_leaving(worker)):
                    self._remove(worker)
                elif spare > 0 and (idle or withdrawn):
                    self._remove(worker)
                    spare -= 1
                elif unused and worker.answer is None and now - worker.asked > PING_S:
                    worker.ping()

    def _start_workers(self) -> None:
        """Start workers up to the least. While jobs wait, one more is pending than is placed, and
        as many as there are free GPUs for waiting jobs."""
        nodes = self._connection.nodes
        if nodes is None or time.monotonic() < self._retry_at:
            return  # without a head, starting one would block
        backlog = self._backlog()
        with self._changed:
            placed, pending = len(self._with(PLACED)), len(self._with((State.PENDING,)))
            avoided = self._avoid.avoided(nodes)
            wanted = self._config.least - placed
            if self._waiting and self._next_idle() is None:
                gpus = sum(node.gpus for name, node in nodes.items() if name not in avoided)
                loading = len(self._with((State.LOADING,)))
                wanted = max(wanted, 1, min(backlog - loading, gpus - placed))
            wanted = min(wanted, self._config.most - placed)
        for _ in range(wanted - pending):
            worker = WorkerHandle.start(avoided)
            with self._changed:
                self._workers.append(worker)

    def _wait(self) -> None:
        """Wait for an answer, for an executor, or for the next tick."""
        if self._due.is_set():
            pass
        elif awaited := self._awaited():
            ray.wait(list(awaited), timeout=TICK_S)
        else:
            self._due.wait(TICK_S)
        self._due.clear()

    def _awaited(self) -> "dict[ObjectRef[Any], WorkerHandle]":
        """The workers whose answers are waited for, by their calls."""
        with self._changed:
            return {worker.answer: worker for worker in self._workers if worker.answer is not None}

    # -- with the lock -----------------------------------------------------------------------------

    def _with(self, states: Iterable[State]) -> list[WorkerHandle]:
        return [worker for worker in self._workers if worker.state in states]

    def _next_idle(self) -> WorkerHandle | None:
        """The idle worker that was used last, so that others give their GPUs back; none whose
        machine is silent or leaves."""
        if self._connection.is_lost:
            return None
        now = time.monotonic()
        idle = [
            worker
            for worker in self._with((State.IDLE,))
            if not self._is_leaving(worker)
            and (worker.answer is None or now - worker.asked < SILENT_S)
        ]
        return max(idle, key=lambda worker: worker.used, default=None)

    def _is_leaving(self, worker: WorkerHandle) -> bool:
        node = (self._connection.nodes or {}).get(worker.node)
        return node is not None and node.draining

    def _remove(self, worker: WorkerHandle) -> None:
        """Forget a worker and free its GPU."""
        with suppress(ValueError):
            self._workers.remove(worker)
        worker.end()
        self._changed.notify_all()


def _is_drained(error: BaseException) -> bool:
    """Whether a worker was lost since its machine was taken away."""
    return isinstance(error, RayActorError) and error.preempted


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
