"""Executor that runs jobs on the workers of a pool, one at a time.

It never retries a job; the queue does.
"""

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from svd_core.cluster.handle import WorkerHandle
from svd_core.cluster.pool import WorkerPool
from svd_core.cluster.roster import POLL_S
from svd_core.cluster.worker import Chunk, Previous, read_chunks, write_chunks
from svd_core.engine.engine import EngineStatus
from svd_core.errors import DeviceLost
from svd_core.event_stream import error_to_outcome
from svd_core.events import Event, Failed, Progress, Stopped, Succeeded
from svd_core.jobs.interface import ExecutorLost
from svd_core.params import VideoRequest
from svd_core.storage import ResultStore

log = logging.getLogger(__name__)


class RayExecutor:
    """Implements `Executor`. `store` gets the results, and has the videos to extend."""

    def __init__(self, pool: WorkerPool, store: ResultStore) -> None:
        self._pool = pool
        self._roster = pool.roster
        self._store = store
        self._worker: WorkerHandle | None = None

    def prepare(self, is_needed: Callable[[], bool]) -> bool:
        if self._worker is None or self._roster.is_gone(self._worker):
            self._worker = self._roster.acquire(is_needed)
        return self._worker is not None

    def run(self, job_id: str, request: VideoRequest) -> Generator[Event | None]:
        worker, self._worker = self._worker, None
        if worker is None or not self._roster.begin(worker):
            raise ExecutorLost("the worker was given back before the job began", counted=False)
        try:
            with closing(self._events(worker, job_id, request)) as events:
                yield from events
        finally:
            self._roster.end(worker)

    def close(self) -> None:
        if self._worker is not None:
            self._roster.release(self._worker)
            self._worker = None

    def _events(
        self, worker: WorkerHandle, job_id: str, request: VideoRequest
    ) -> Generator[Event | None]:
        try:
            with write_chunks(self._store, job_id) as write:
                outcome = yield from self._progress(worker, job_id, request, write)
        except ExecutorLost:
            raise
        except Exception as error:  # noqa: BLE001 - the job ends, but not its executor
            outcome = error_to_outcome(job_id, error)
        if isinstance(outcome, Succeeded):
            path = self._store.path(job_id)
            outcome = Succeeded(replace(outcome.video, path=path))
        yield outcome

    def _progress(
        self,
        worker: WorkerHandle,
        job_id: str,
        request: VideoRequest,
        write: Callable[[Chunk], None],
    ) -> Generator[Progress | None, None, Succeeded | Failed | Stopped]:
        """Run the job; `write` gets its files. Returns the outcome."""
        stream = self._start(worker, job_id, request)
        ended = False
        try:
            for item in self._items(worker, stream):
                match item:
                    case Progress() | None:
                        yield item
                    case Chunk():
                        write(item)
                    case EngineStatus():
                        worker.status = item
                    case Failed(error=DeviceLost() as error):
                        raise self._pool.lose(worker, error)
                    case Succeeded() | Failed() | Stopped() as outcome:
                        ended = True
                        return outcome
            raise self._pool.lose(worker, EOFError("the worker ended without an outcome"))
        except RayTaskError:
            ended = True  # the worker lives on
            raise
        finally:
            if not ended:
                self._stop(worker, stream)

    def _start(self, worker: WorkerHandle, job_id: str, request: VideoRequest) -> Any:
        """Call the worker. Returns the stream of results. Raises `ExecutorLost`, `OSError`."""
        run = worker.actor.run.options(num_returns="streaming")
        previous: Previous | None = None
        try:
            if request.continues is not None:
                chunks = read_chunks(self._store, request.continues)
                previous = request.continues, [ray.put(chunk) for chunk in chunks]
            return run.remote(job_id, request, previous)
        except (RayError, ConnectionError) as error:
            raise self._pool.lose(worker, error) from error

    def _items(self, worker: WorkerHandle, stream: Any) -> Iterator[Any]:
        """Yield the items of a stream, and None while there are none.

        Raises `ExecutorLost`, `RayTaskError`.
        """
        while True:
            item = None
            try:
                if self._roster.is_gone(worker):
                    raise ConnectionError("the connection to the cluster was lost")
                # A bare `next` would block while the machine is silent.
                if ray.wait([stream], timeout=POLL_S)[0]:
                    item = ray.get(next(stream))
            except StopIteration:
                return
            except RayTaskError:
                raise
            except (RayError, ConnectionError) as error:
                raise self._pool.lose(worker, error) from error
            yield item

    def _stop(self, worker: WorkerHandle, stream: Any) -> None:
        """Cancel a job. Its worker is free after the current step."""
        if self._roster.is_gone(worker):
            return
        try:
            ray.cancel(stream)
            self._roster.stop(worker)
        except (RayError, ConnectionError) as error:
            log.warning("Lost the worker of a cancelled job: %s", self._pool.lose(worker, error))
