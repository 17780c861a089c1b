"""Worker pool: as many GPU workers as the jobs need and the machines give.

While jobs wait, one worker more is pending than is placed. So a new machine is used the moment it
joins, and the pending worker is the demand that Ray's autoscaler sees. Idle workers above the least
give their GPUs back. Only the thread of the pool starts workers, loses them and leaves the cluster.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import RayActorError

from svd_core.cluster.config import ClusterConfig
from svd_core.cluster.connection import ClusterUnreachable, Connection
from svd_core.cluster.release import code_release
from svd_core.cluster.status import cluster_status
from svd_core.cluster.worker import GpuWorker, OpenWork, WorkerSettings, open_engine
from svd_core.engine.engine import EngineStatus
from svd_core.errors import DeviceUnavailable, SvdError
from svd_core.jobs.executor import ExecutorLost

TICK_S = 0.1
"""Seconds between two looks of the pool at what is due."""

POLL_S = 0.25
"""Seconds between two looks of an executor at whether it is still needed."""

PING_S = 2.0
"""Seconds between two calls that show whether an idle worker is alive."""

SILENT_S = 1.0
"""Seconds without an answer from an idle worker after which it gets no job."""

RECONNECT_S = 1.0
STRANDED_S = 15.0
"""Seconds without a worker after one was lost: then this process leaves the cluster and joins anew.
Ray gives no new worker to a process whose own node has died."""

CLOSE_TIMEOUT_S = 5.0
"""Seconds that `close` waits for calls under way."""

WITHDRAW_S = 5.0
"""Seconds without a waiting job after which a pending worker is withdrawn."""

MAX_FAILURES = 3
"""Workers in a row that could not load the checkpoint: then a job fails with that error."""

AVOID_S = 60.0
"""Seconds for which a machine is avoided where the checkpoint could not be loaded."""

NODE_ID = "ray.io/node-id"
"""Ray's own label of a node."""

log = logging.getLogger(__name__)


class State(Enum):
    PENDING = "pending"
    LOADING = "loading"
    IDLE = "idle"
    HELD = "held"
    """An executor has it, and no job yet."""
    RUNNING = "running"
    GONE = "gone"


LIVE = (State.IDLE, State.HELD, State.RUNNING)
PLACED = (State.LOADING, *LIVE)


@dataclass(eq=False)
class Worker:
    """A worker as the pool knows it.

    `answer`: the call that is waited for. `avoided`: nodes that it is not placed on. `used`,
    `asked`: when it last had a job, and when the call was made, by the monotonic clock.
    """

    actor: Any
    answer: "ObjectRef[Any] | None"
    avoided: frozenset[str] = frozenset()
    state: State = State.PENDING
    node: str = ""
    host: str = ""
    status: EngineStatus | None = None
    used: float = field(default_factory=time.monotonic)
    asked: float = field(default_factory=time.monotonic)


class WorkerPool:
    """Workers of this process. Thread-safe.

    `open_work` is called on each worker. `release` is the only code that workers may run. `on_end`
    is called when the cluster of this machine, which is part of this process, has died.
    """

    def __init__(
        self,
        config: ClusterConfig,
        settings: WorkerSettings,
        open_work: OpenWork = open_engine,
        *,
        release: str | None = None,
        on_end: Callable[[SvdError], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._settings = settings
        self._open_work = open_work
        self._release = release or code_release()
        self._on_end = on_end
        self._connection = Connection(config, self._wake)
        self._changed = threading.Condition()
        self._workers: list[Worker] = []
        self._running = 0
        self._waiting = 0
        self._waited = 0.0
        self._refused: set[str] = set()
        self._failed: dict[str, float] = {}
        self._failures = 0
        self._error: SvdError | None = None
        self._retry_at = 0.0
        self._lost_at: float | None = None
        self._problem = ""
        self._closing = threading.Event()
        self._due = threading.Event()
        self._thread = threading.Thread(target=self._run, name="svd-cluster", daemon=True)
        if config.is_local:
            self._connection.open()
        self._thread.start()

    # -- what executors call -----------------------------------------------------------------------

    def acquire(self, is_needed: Callable[[], bool]) -> Worker | None:
        """Wait for a worker that has nothing to do; None once `is_needed()` is false.

        Raises the `SvdError` for which `MAX_FAILURES` workers in a row could not be loaded.
        """
        with self._changed:
            if not self._waiting and not self._with(LIVE):
                self._failures, self._retry_at = 0, 0.0
            self._waiting += 1
            try:
                while is_needed() and not self._closing.is_set():
                    if (worker := self._idle()) is not None:
                        worker.state = State.HELD
                        return worker
                    if self._failures >= MAX_FAILURES and not self._with(PLACED):
                        assert self._error is not None
                        self._failures = 0
                        raise self._error
                    self._due.set()
                    self._changed.wait(POLL_S)
                return None
            finally:
                self._waiting -= 1
                self._waited = time.monotonic()

    def begin(self, worker: Worker) -> bool:
        """Mark a held worker as running a job. False if it has been taken away meanwhile."""
        with self._changed:
            if worker.state is not State.HELD:
                return False
            worker.state = State.RUNNING
            self._running += 1
            return True

    def end(self, worker: Worker) -> None:
        """Take note that the executor makes no call of the worker any more."""
        with self._changed:
            self._running -= 1
            if worker.state is State.RUNNING:
                worker.state, worker.used = State.IDLE, time.monotonic()
            self._changed.notify_all()

    def release(self, worker: Worker) -> None:
        """Return a held worker."""
        with self._changed:
            if worker.state is State.HELD:
                worker.state = State.IDLE
                self._changed.notify_all()

    def lose(self, worker: Worker, error: BaseException) -> ExecutorLost:
        """Give up a worker of which a call failed. Returns what its executor has to raise."""
        with self._changed:
            gone = worker.state is State.GONE  # with the whole connection
            if worker.state in PLACED:
                self._lost_at = time.monotonic()
            self._remove(worker)
        drained = isinstance(error, RayActorError) and error.preempted
        return ExecutorLost(f"{worker.host}: {_first_line(error)}", counted=not (drained or gone))

    def is_gone(self, worker: Worker) -> bool:
        """Whether its executor has to let go: no call of it will be answered."""
        return worker.state is State.GONE or self._closing.is_set()

    # -- what the page asks ------------------------------------------------------------------------

    @property
    def status(self) -> EngineStatus:
        with self._changed:
            live = [w.status for w in self._with(LIVE) if w.status is not None]
            loading = len(self._with((State.LOADING,)))
            error = self._error if self._failures else None
        silent = "The head of the cluster is silent." if self._connection.is_silent else ""
        return cluster_status(self._settings.model, live, loading, error, self._problem or silent)

    def close(self) -> None:
        """Give all GPUs back and leave the cluster. The executors have let go by now."""
        self._closing.set()
        self._connection.stop()
        self._wake()
        self._thread.join(CLOSE_TIMEOUT_S)
        with self._changed:
            self._changed.wait_for(lambda: not self._running, CLOSE_TIMEOUT_S)
        self._connection.close()

    # -- the thread of the pool --------------------------------------------------------------------

    def _wake(self) -> None:
        self._due.set()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._tick()
            except ClusterUnreachable as error:
                if str(error) != self._problem:
                    log.warning("%s", error)
                self._problem = str(error)
                self._closing.wait(RECONNECT_S)
            except Exception as error:  # noqa: BLE001 - without this thread no worker is started
                log.error("The worker pool goes on after an error.", exc_info=error)
                self._closing.wait(RECONNECT_S)

    def _tick(self) -> None:
        if not self._connection.is_open:
            self._connection.open()
            self._problem = ""
        elif self._connection.is_lost or self._is_stranded():
            self._leave()
            return
        self._take_answers()
        self._give_back()
        self._ping()
        self._start_workers()
        self._wait()

    def _wait(self) -> None:
        """Wait for an answer, for an executor, or for the next tick."""
        answers = list(self._awaited())
        if not answers:
            self._due.wait(TICK_S)
        elif not self._due.is_set():
            ray.wait(answers, timeout=TICK_S)
        self._due.clear()

    def _awaited(self) -> "dict[ObjectRef[Any], Worker]":
        """The workers whose answers are waited for, by their calls."""
        with self._changed:
            return {worker.answer: worker for worker in self._workers if worker.answer is not None}

    def _is_stranded(self) -> bool:
        lost = self._lost_at
        waits = any(worker.state is State.PENDING for worker in self._workers)
        return lost is not None and waits and time.monotonic() - lost > STRANDED_S

    def _leave(self) -> None:
        """Leave the cluster once all executors have let go, to join it anew."""
        log.warning("The connection to the cluster is lost; joining it anew.")
        with self._changed:
            for worker in self._workers:
                worker.state = State.GONE
            self._lost_at = None
            self._problem = "The connection to the cluster was lost."
            self._changed.notify_all()
            self._workers.clear()
            self._changed.wait_for(lambda: not self._running)
        if self._config.is_local:
            self._closing.set()
            self._on_end(
                DeviceUnavailable(
                    "Ray on this machine has ended, and the GPU workers with it; start the server "
                    "again."
                )
            )
            return
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
            except Exception as error:  # noqa: BLE001 - a RayActorError, or what its start raised
                self._take_error(worker, error)

    def _take(self, worker: Worker, answer: Any) -> None:
        """Go on with a worker that has answered: describe, load, then pings."""
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
                worker.status, worker.state = answer, State.IDLE
                worker.used = time.monotonic()
                self._failures, self._lost_at = 0, None
                self._failed.pop(worker.node, None)
                self._changed.notify_all()
            log.info("A GPU worker on %s is ready (%s).", worker.host, answer.device)

    def _take_error(self, worker: Worker, error: Exception) -> None:
        """Go on without a worker that has died, or never started."""
        if worker.state is State.RUNNING:  # its executor hears of it too
            return
        text = _first_line(error)
        raised = not isinstance(error, RayActorError) or error.actor_init_failed
        if worker.state is State.LOADING or (worker.state is State.PENDING and raised):
            reason = f"A GPU worker could not start ({text}); see the log of Ray on its machine."
            self._fail(worker, DeviceUnavailable(reason))
            return
        log.warning("A GPU worker on %s is gone: %s", worker.host or "a machine", text)
        self.lose(worker, error)

    def _refuse(self, worker: Worker) -> None:
        """Give back a GPU whose machine runs other code."""
        self._refused.add(worker.node)
        log.warning(
            "The machine %s runs another release of this program, so it gets no jobs; install the "
            "release of the server there and start it again.", worker.host,
        )  # fmt: skip
        with self._changed:
            self._problem = f"The machine {worker.host} runs another release of this program."
            self._remove(worker)

    def _fail(self, worker: Worker, error: SvdError) -> None:
        """Try the checkpoint elsewhere, and after some failures give up a job."""
        log.warning("A GPU worker on %s cannot run: %s", worker.host or "a machine", error.message)
        with self._changed:
            self._remove(worker)
            if worker.node:
                self._failed[worker.node] = time.monotonic() + AVOID_S
            self._failures += 1
            self._error = error
            self._retry_at = time.monotonic() + min(2.0 ** (self._failures - 1), AVOID_S)
            self._changed.notify_all()

    def _give_back(self) -> None:
        """Give back what is not needed: idle workers above the least, withdrawn pending ones, and
        those whose machine leaves."""
        now = time.monotonic()
        nodes = self._connection.nodes or {}
        with self._changed:
            spare = len(self._workers) - self._config.least
            for worker in sorted(self._workers, key=lambda worker: worker.used):
                idle = worker.state in (State.IDLE, State.HELD)
                node = nodes.get(worker.node)
                leaves = idle and node is not None and node.draining
                unused = idle and now - worker.used > self._config.idle_s
                pending = worker.state is State.PENDING
                withdrawn = pending and not self._waiting and now - self._waited > WITHDRAW_S
                moved = pending and worker.avoided != self._avoided()
                if leaves or moved or (spare > 0 and (unused or withdrawn)):
                    self._remove(worker)
                    spare -= 1

    def _ping(self) -> None:
        """Call idle workers, so that dead ones are known."""
        now = time.monotonic()
        with self._changed:
            for worker in self._with((State.IDLE, State.HELD)):
                if worker.answer is None and now - worker.asked > PING_S:
                    worker.answer, worker.asked = worker.actor.describe.remote(), now

    def _start_workers(self) -> None:
        """Start workers up to the least, and one more than is placed while jobs wait."""
        if self._connection.nodes is None or time.monotonic() < self._retry_at:
            return  # without a head, starting one would block
        with self._changed:
            placed, pending = len(self._with(PLACED)), len(self._with((State.PENDING,)))
            wanted = 1 if self._waiting and self._idle() is None else 0
            wanted = max(wanted, self._config.least - placed)
            for _ in range(min(wanted, self._config.most - placed) - pending):
                self._workers.append(self._start())

    def _start(self) -> Worker:
        avoided = self._avoided()
        selector = {NODE_ID: f"!in({','.join(sorted(avoided))})"} if avoided else None
        actor_class: Any = ray.remote(GpuWorker)
        actor = actor_class.options(
            num_gpus=1, num_cpus=0, max_restarts=0, max_task_retries=0, label_selector=selector
        ).remote()
        return Worker(actor, actor.describe.remote(), avoided)

    def _avoided(self) -> frozenset[str]:
        """Nodes that get no new worker. Where no other has a GPU, failed ones are tried again."""
        now = time.monotonic()
        failed = {node for node, until in self._failed.items() if until > now}
        nodes = self._connection.nodes or {}
        others = {n for n, node in nodes.items() if node.gpus} - failed - self._refused
        return frozenset(self._refused | failed if others else self._refused)

    def _with(self, states: Iterable[State]) -> list[Worker]:
        return [worker for worker in self._workers if worker.state in states]

    def _idle(self) -> Worker | None:
        """The idle worker that was used last, so that others give their GPUs back; none whose
        machine is silent."""
        now = time.monotonic()
        idle = [
            worker
            for worker in self._with((State.IDLE,))
            if worker.answer is None or now - worker.asked < SILENT_S
        ]
        return max(idle, key=lambda worker: worker.used, default=None)

    def _remove(self, worker: Worker) -> None:
        """Forget a worker and free its GPU. Call it with the lock."""
        with suppress(ValueError):
            self._workers.remove(worker)
        worker.state = State.GONE
        self._changed.notify_all()
        # Ray's call waits for the head, which may be away.
        threading.Thread(target=_kill, args=(worker.actor,), name="svd-kill", daemon=True).start()


def _kill(actor: Any) -> None:
    with suppress(Exception):
        ray.kill(actor)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
