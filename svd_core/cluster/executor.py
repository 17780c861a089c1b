"""Executor that runs jobs on the workers of a pool, one at a time.

A job is given up, never retried: the queue has it run again.
"""

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import RayError, RayTaskError

from svd_core.cluster.handle import WorkerHandle
from svd_core.cluster.pool import POLL_S, WorkerPool
from svd_core.cluster.transfer import Chunk, read_chunks, write_chunks
from svd_core.cluster.worker import Previous
from svd_core.engine.engine import EngineStatus
from svd_core.errors import DeviceLost
from svd_core.event_stream import error_to_outcome
from svd_core.events import Event, Failed, Progress, Stopped, Succeeded
from svd_core.jobs.executor import ExecutorLost
from svd_core.params import VideoRequest
from svd_core.storage import ResultStore

log = logging.getLogger(__name__)


class RayExecutor:
    """Implements `Executor`. Results are written to `store`, and what a job continues is there."""

    def __init__(self, pool: WorkerPool, store: ResultStore) -> None:
        self._pool = pool
        self._store = store
        self._worker: WorkerHandle | None = None

    def prepare(self, is_needed: Callable[[], bool]) -> bool:
        if self._worker is None or self._pool.is_gone(self._worker):
            self._worker = self._pool.acquire(is_needed)
        return self._worker is not None

    def run(self, job_id: str, request: VideoRequest) -> Generator[Event]:
        worker, self._worker = self._worker, None
        if worker is None or not self._pool.begin(worker):
            raise ExecutorLost("the worker was given back before the job began", counted=False)
        try:
            with closing(self._events(worker, job_id, request)) as events:
                yield from events
        finally:
            self._pool.end(worker)

    def close(self) -> None:
        if self._worker is not None:
            self._pool.release(self._worker)
            self._worker = None

    def _events(self, worker: WorkerHandle, job_id: str, request: VideoRequest) -> Generator[Event]:
        try:
            with write_chunks(self._store, job_id) as write:
                outcome = yield from self._progress(worker, job_id, request, write)
        except ExecutorLost:
            raise
        except Exception as error:  # noqa: BLE001 - the job ends, and not its executor
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
    ) -> Generator[Progress, None, Succeeded | Failed | Stopped]:
        """Run the job; `write` gets its files. Returns the outcome."""
        stream = worker.actor.run.options(num_returns="streaming").remote(
            job_id, request, self._previous(request)
        )
        ended = False
        try:
            for item in self._items(worker, stream):
                match item:
                    case Chunk():
                        write(item)
                    case EngineStatus():
                        worker.status = item
                    case Progress():
                        yield item
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

    def _items(self, worker: WorkerHandle, stream: Any) -> Iterator[Any]:
        """The items of a stream, to its end. Raises `ExecutorLost`, `RayTaskError`."""
        while True:
            try:
                if self._pool.is_gone(worker):
                    raise ConnectionError("the connection to the cluster was lost")
                # Never a bare `next`, which blocks for as long as the machine is silent.
                if not ray.wait([stream], timeout=POLL_S)[0]:
                    continue
                item = ray.get(next(stream))
            except StopIteration:
                return
            except RayTaskError:
                raise
            except (RayError, ConnectionError) as error:
                raise self._pool.lose(worker, error) from error
            yield item

    def _previous(self, request: VideoRequest) -> Previous | None:
        """What the job continues, put where its worker gets it from."""
        if request.continues is None:
            return None
        chunks: list[ObjectRef[Chunk]] = [
            ray.put(chunk) for chunk in read_chunks(self._store, request.continues)
        ]
        return request.continues, chunks

    def _stop(self, worker: WorkerHandle, stream: Any) -> None:
        """Cancel a job. Returns when its worker has nothing to do any more, or is gone."""
        if self._pool.is_gone(worker):
            return
        try:
            ray.cancel(stream)
            free = worker.actor.describe.remote()  # answered after the call that was cancelled
            while not self._pool.is_gone(worker):
                if ray.wait([free], timeout=POLL_S)[0]:
                    ray.get(free)
                    return
        except (RayError, ConnectionError) as error:
            log.warning("Job stopped together with its worker: %s", self._pool.lose(worker, error))
