"""Worker handles: the server's view of each GPU worker, with the calls that start and end it."""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import ray
from ray import ObjectRef

from svd_core.cluster.placement import label_selector
from svd_core.cluster.worker import GpuWorker
from svd_core.engine.engine import EngineStatus


class State(Enum):
    PENDING = "pending"
    """It waits for a GPU, or its process starts."""
    LOADING = "loading"
    IDLE = "idle"
    HELD = "held"
    """An executor has it, but no job yet."""
    RUNNING = "running"
    STOPPING = "stopping"
    """Its job was cancelled, but the current step has not ended."""
    GONE = "gone"


UNUSED = (State.IDLE, State.HELD)
LIVE = (*UNUSED, State.RUNNING, State.STOPPING)
PLACED = (State.LOADING, *LIVE)


@dataclass(eq=False)
class WorkerHandle:
    """One worker. Its actor is never restarted, and ends with this process.

    `answer`: the pending call. `avoided`: nodes that it must not run on. `used_at`, `called_at`:
    times of its last job and of the pending call, by the monotonic clock.
    """

    actor: Any
    answer: "ObjectRef[Any] | None"
    avoided: frozenset[str]
    state: State = State.PENDING
    node: str = ""
    host: str = "a machine"
    status: EngineStatus | None = None
    used_at: float = field(default_factory=time.monotonic)
    called_at: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, avoided: frozenset[str]) -> "WorkerHandle":
        """Request a GPU on a node that is not `avoided`. Blocks while the head is away."""
        actor_class: Any = ray.remote(GpuWorker)
        actor = actor_class.options(
            num_gpus=1,
            num_cpus=0,
            max_restarts=0,
            max_task_retries=0,
            label_selector=label_selector(avoided),
        ).remote()
        return cls(actor, actor.describe.remote(), avoided)

    def ping(self) -> None:
        """Make a call that only a living worker answers."""
        self.answer, self.called_at = self.actor.describe.remote(), time.monotonic()

    def end(self) -> None:
        """Free the GPU in a thread: Ray's call blocks while the head is away."""
        self.state = State.GONE
        threading.Thread(target=self._kill, name="svd-kill", daemon=True).start()

    def _kill(self) -> None:
        with suppress(Exception):
            ray.kill(self.actor)
