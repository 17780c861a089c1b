"""GPU worker: a Ray actor with one GPU, one loaded engine and a scratch store.

It runs one job at a time and keeps nothing of it. It streams events and files to the server, which
alone stores results. It is never restarted and no call is retried; the job table retries.
"""

import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO

import ray
from ray import ObjectRef

from svd_core.checkpoints.memory_plan import OffloadSetting
from svd_core.checkpoints.speed_modes import AccelerationConfig, Compile
from svd_core.engine.engine import Engine, EngineStatus, SvdEngine
from svd_core.errors import DeviceUnavailable, SvdError
from svd_core.event_stream import Work, run_as_stream
from svd_core.events import Event, OnProgress, Succeeded, Video
from svd_core.generate import generate
from svd_core.media.ffmpeg import atomic_write
from svd_core.params import VideoRequest
from svd_core.settings import Settings
from svd_core.storage import FRAMES, VIDEO, ResultStore

SCRATCH = "svd-worker-"

PACKAGE = Path(__file__).parent.parent

CHUNK_BYTES = 8 << 20
"""Ray copies smaller values once more, and keeps larger ones in memory as a whole."""

SUFFIXES = (VIDEO, FRAMES)
"""Files to send. The video is renamed last, since it is the result."""

Description = dict[str, str | int]
"""`release`, `node` (id), `host` and `pid` of a worker. Plain types, which a worker with other code
can send too."""


@dataclass(frozen=True)
class Chunk:
    """The next bytes of the file with that `suffix`; chunks of one file come in order."""

    suffix: str
    data: bytes = field(repr=False)


def read_chunks(store: ResultStore, job_id: str) -> Iterator[Chunk]:
    """The existing files of `job_id` in `store`. Raises `OSError`."""
    for suffix in SUFFIXES:
        path = store.path(job_id).with_suffix(suffix)
        if path.is_file():
            with path.open("rb") as file:
                while data := file.read(CHUNK_BYTES):
                    yield Chunk(suffix, data)


@contextmanager
def write_chunks(store: ResultStore, job_id: str) -> Iterator[Callable[[Chunk], None]]:
    """A function that writes chunks to the files of `job_id` in `store`.

    The files appear when the block ends without error, and otherwise leave nothing. Raises
    `StorageFull`, `ServerBusy`, `GenerationFailed`.
    """
    with ExitStack() as stack:
        files: dict[str, IO[bytes]] = {}

        def write(chunk: Chunk) -> None:
            if chunk.suffix not in files:
                assert chunk.suffix in SUFFIXES
                path = store.path(job_id).with_suffix(chunk.suffix)
                part = stack.enter_context(atomic_write(path))
                files[chunk.suffix] = stack.enter_context(part.open("wb"))
            files[chunk.suffix].write(chunk.data)

        yield write


Previous = tuple[str, Sequence["ObjectRef[Chunk]"]]
"""Id and files of the video to extend."""


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
"""Opens the engine of a worker and its work. Called on the worker."""


def open_engine(settings: WorkerSettings, store: ResultStore) -> tuple[Engine, Work]:
    """The engine of `settings`, without fallback: another machine may have the checkpoint."""
    data_dir = Settings.from_env().data_dir  # of this machine
    engine = SvdEngine(
        settings.model,
        settings.offload,
        fallback=False,
        acceleration=AccelerationConfig(
            turbo=settings.turbo, compile=settings.compile, folder=data_dir / "compiled"
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
        """Where this worker is and which code it runs. Waits for other calls to end."""
        context = ray.get_runtime_context()
        return {
            "release": code_release(),
            "node": context.get_node_id(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }

    def load(self, settings: WorkerSettings, open_work: OpenWork) -> EngineStatus | SvdError:
        """Load the default checkpoint. Returns an error, since a raised one loses its type."""
        # Ray sets it to the actor's num_cpus. Torch reads it when it is imported.
        os.environ["OMP_NUM_THREADS"] = str(settings.cpus)
        try:
            self._engine, self._work = open_work(settings, self._store)
            self._engine.load(lambda _: None)
        except SvdError as error:
            return error
        except Exception as error:  # noqa: BLE001 - another machine may do better
            host, reason = socket.gethostname(), repr(error)
            return DeviceUnavailable("worker_failed_to_start", host=host, reason=reason)
        return self._engine.status

    def run(
        self, job_id: str, request: VideoRequest, previous: Previous | None = None
    ) -> Generator[Chunk | EngineStatus | Event]:
        """Run a job: `Progress*`, the engine's status, the files of a video, then the outcome.

        A cancelled call ends at its next event, without an outcome. Raises `OSError` if the scratch
        store fails.
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


def remove_abandoned(folder: Path | None = None) -> None:
    """Remove the scratch stores of killed workers of this machine."""
    for path in (folder or Path(tempfile.gettempdir())).glob(f"{SCRATCH}*"):
        pid = path.name.removeprefix(SCRATCH).partition("-")[0]
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            shutil.rmtree(path, ignore_errors=True)
        except (PermissionError, ValueError):  # alive, or not ours
            continue


@cache
def code_release(package: Path = PACKAGE) -> str:
    """SHA-256 over the names and bytes of all modules in `package`, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py"), key=lambda path: path.relative_to(package).parts):
        code = path.read_bytes().replace(b"\r\n", b"\n")  # as Git on Windows may write it
        name = path.relative_to(package).as_posix()
        digest.update(f"{name}\0{len(code)}\0".encode() + code)
    return digest.hexdigest()
