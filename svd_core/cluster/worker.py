"""GPU worker: a Ray actor with one GPU, one loaded engine and a scratch store.

It runs one job at a time and keeps nothing of it: events and files are streamed to the server,
which alone writes results. It is never restarted and no call is retried; the job table retries.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import ray
from ray import ObjectRef

from svd_core.checkpoints.memory_plan import OffloadSetting
from svd_core.checkpoints.speed_modes import AccelerationConfig, Compile
from svd_core.cluster.release import code_release
from svd_core.cluster.transfer import Chunk, read_chunks, write_chunks
from svd_core.engine.engine import Engine, EngineStatus, SvdEngine
from svd_core.errors import DeviceUnavailable, SvdError
from svd_core.event_stream import Work, run_as_stream
from svd_core.events import Event, OnProgress, Succeeded, Video
from svd_core.generate import generate
from svd_core.params import VideoRequest
from svd_core.settings import Settings
from svd_core.storage import ResultStore

SCRATCH = "svd-worker-"

Description = dict[str, str | int]
"""`release`, `node` (its id), `host` and `pid` of a worker. Plain types, since a worker
with other code must be able to send them too."""

Previous = tuple[str, Sequence["ObjectRef[Chunk]"]]
"""The id of the video that is continued, and its files."""


@dataclass(frozen=True)
class WorkerSettings:
    """Settings of the server that its workers share. `cpus`: processor threads of one worker."""

    model: str = "auto"
    offload: OffloadSetting = "auto"
    turbo: Path | None = None
    compile: Compile = "auto"
    cpus: int = 4

    @classmethod
    def from_settings(cls, settings: Settings) -> "WorkerSettings":
        return cls(
            settings.model, settings.offload, settings.turbo, settings.compile,
            settings.cluster_cpus,
        )  # fmt: skip


OpenWork = Callable[[WorkerSettings, ResultStore], tuple[Engine, Work]]
"""Opens the engine of a worker, and the work that it does with it. Called on the worker."""


def open_engine(settings: WorkerSettings, store: ResultStore) -> tuple[Engine, Work]:
    """The engine of `settings`. Nothing stands in for its checkpoint: another machine has it."""
    own = Settings.from_env().data_dir  # this machine's
    engine = SvdEngine(
        settings.model,
        settings.offload,
        fallback=False,
        acceleration=AccelerationConfig(
            turbo=settings.turbo, compile=settings.compile, folder=own / "compiled"
        ),
    )

    def work(job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        return generate(request, engine, store, job_id, on_progress)

    return engine, work


class GpuWorker:
    """One GPU's worker. Its calls come one after another, never at once."""

    def __init__(self) -> None:
        remove_abandoned()
        self._scratch = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-"))
        self._store = ResultStore(self._scratch)
        self._engine: Engine | None = None
        self._work: Work | None = None

    def describe(self) -> Description:
        """Where this worker is and which code it runs. Answers once no other call runs."""
        context = ray.get_runtime_context()
        return {
            "release": code_release(),
            "node": context.get_node_id(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }

    def load(self, settings: WorkerSettings, open_work: OpenWork) -> EngineStatus | SvdError:
        """Load the default checkpoint. An error is returned, since a raised one loses its type."""
        # Ray sets it to the actor's num_cpus. Torch reads it once, when it is imported.
        os.environ["OMP_NUM_THREADS"] = str(settings.cpus)
        try:
            self._engine, self._work = open_work(settings, self._store)
            self._engine.load(lambda _: None)
        except SvdError as error:
            return error
        except Exception as error:  # noqa: BLE001 - another machine may do better
            return start_error(socket.gethostname(), repr(error))
        return self._engine.status

    def run(
        self, job_id: str, request: VideoRequest, previous: Previous | None = None
    ) -> Generator[Chunk | EngineStatus | Event]:
        """Run a job: `Progress*`, the engine's status, the files of a video, then the outcome.

        A cancelled call ends at its next event, without an outcome. Raises `OSError` where the
        scratch store fails.
        """
        assert self._engine is not None
        assert self._work is not None
        stored = {job_id}
        context = ray.get_runtime_context()
        try:
            if previous is not None:
                stored.add(previous[0])
                self._receive(*previous)
            with closing(run_as_stream(self._work, job_id, request)) as events:
                for event in events:
                    if context.is_canceled():
                        return
                    if isinstance(event, Succeeded):
                        yield self._engine.status
                        yield from read_chunks(self._store, job_id)
                    yield event
        finally:
            self._store.remove(stored)

    def _receive(self, job_id: str, chunks: Sequence["ObjectRef[Chunk]"]) -> None:
        with write_chunks(self._store, job_id) as write:
            for chunk in chunks:
                write(ray.get(chunk))


def start_error(host: str, reason: str) -> DeviceUnavailable:
    """What a job fails with where no worker can start."""
    return DeviceUnavailable("worker_failed_to_start", host=host, reason=reason)


def remove_abandoned(folder: Path | None = None) -> None:
    """Remove the scratch stores of killed workers of this machine."""
    for path in (folder or Path(tempfile.gettempdir())).glob(f"{SCRATCH}*"):
        pid = path.name.removeprefix(SCRATCH).partition("-")[0]
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            shutil.rmtree(path, ignore_errors=True)
        except (PermissionError, ValueError):  # it lives, or is not ours
            continue
