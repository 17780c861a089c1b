"""Handles: what the server knows of each GPU worker, and the calls that start and end it."""

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
    """No machine has a GPU for it yet, or its process starts."""
    LOADING = "loading"
    IDLE = "idle"
    HELD = "held"
    """An executor has it, and no job yet."""
    RUNNING = "running"
    STOPPING = "stopping"
    """Its job was cancelled, and the step under way has not ended yet."""
    GONE = "gone"


UNUSED = (State.IDLE, State.HELD)
LIVE = (*UNUSED, State.RUNNING, State.STOPPING)
PLACED = (State.LOADING, *LIVE)


@dataclass(eq=False)
class WorkerHandle:
    """One worker. Its actor is never restarted, and ends with this process.

    `answer`: the call that is waited for. `avoided`: nodes that it is not placed on. `used`,
    `asked`: when it last had a job, and when the call was made, by the monotonic clock.
    """

    actor: Any
    answer: "ObjectRef[Any] | None"
    avoided: frozenset[str]
    state: State = State.PENDING
    node: str = ""
    host: str = "a machine"
    status: EngineStatus | None = None
    used: float = field(default_factory=time.monotonic)
    asked: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, avoided: frozenset[str]) -> "WorkerHandle":
        """Ask for a GPU on a node that is not `avoided`. Waits for the head if that is away."""
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
        """Make a call whose answer shows that it lives."""
        self.answer, self.asked = self.actor.describe.remote(), time.monotonic()

    def end(self) -> None:
        """Free the GPU, without waiting: Ray's call waits for the head if that is away."""
        self.state = State.GONE
        threading.Thread(target=self._kill, name="svd-kill", daemon=True).start()

    def _kill(self) -> None:
        with suppress(Exception):
            ray.kill(self.actor)
