"""Starts page and API: settings -> stores -> engine -> queue -> web. Nothing else builds."""
# ruff: noqa: E402 - signals and environment come before the imports, which take seconds

import os
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

# Ctrl-C and SIGTERM end the process politely from its first line on; `main` takes over later.
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: sys.exit(0))
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_DEBUG"] = "0"  # with 1 the launch never returns, and no signal ends it

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.cluster.config import ClusterConfig, prepare_environment
from svd_core.errors import Cancelled, DeviceLost, SvdError
from svd_core.proxies import prepare_proxies
from svd_core.settings import Settings, on_zero_gpu
from svd_core.storage import private_folder
from svd_core.web.listener import ListenAddress, Listener


def temp_path(settings: Settings) -> Path:
    """The folder of temporary files. Gradio reads it when it is imported.

    Libraries get it too if the system has none, as in a read-only container.
    """
    path = settings.data_dir / "tmp"
    os.environ["GRADIO_TEMP_DIR"] = str(path)
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        private_folder(path)  # libraries expect it to exist
        os.environ["TMPDIR"] = str(path.absolute())
    return path


if __name__ == "__main__":  # wrong settings are reported before the slow imports
    try:
        (address := ListenAddress.from_env()).export(os.environ)
        prepare_proxies(os.environ, address.host)
        ModelCatalog.from_setting((early := Settings.from_env()).model, cuda=False)
        AccelerationConfig.from_settings(early)
        if early.cluster:
            prepare_environment(ClusterConfig.from_settings(early))
        temp_path(early)
    except SvdError as error:
        sys.exit(str(error))
    os.environ.setdefault("PATH", os.defpath)  # a library of Gradio fails without it
    try:
        import gradio  # noqa: F401 - a broken environment or installation shows here
    except Exception as error:  # noqa: BLE001
        sys.exit(f"Gradio cannot be loaded ({error!r}); install requirements.txt again.")

with suppress(ImportError):
    import spaces  # noqa: F401 - ZeroGPU wants it before torch; elsewhere it does nothing

from svd_core.checkpoints.catalog import CostLimits
from svd_core.checkpoints.eta import zero_gpu_seconds
from svd_core.checkpoints.table import ASSETS
from svd_core.database import Database
from svd_core.engine.engine import Engine, EngineStatus, SvdEngine
from svd_core.events import OnProgress, Progress, Video
from svd_core.generate import generate
from svd_core.jobs import (
    Executor,
    InlineQueue,
    Job,
    JobQueue,
    JobTable,
    LocalExecutor,
    Outbox,
    QueueContext,
    QueueLimits,
    Retention,
    WorkerQueue,
)
from svd_core.jobs.schema import create_tables
from svd_core.owner_lock import OwnerLock
from svd_core.params import VideoRequest
from svd_core.storage import ResultStore
from svd_core.temp_folder import TempFolder
from svd_core.web.connections import (
    connection_limit,
    limit_connections,
    raise_descriptor_limit,
)
from svd_core.web.fal import ApiContext, ApiService, build_api
from svd_core.web.fal.signed_tokens import load_secret
from svd_core.web.origins import reachable_locally_only
from svd_core.web.page import Backend, SessionIds, build_page
from svd_core.web.rate_limits import AddressQuota
from svd_core.web.server import configure_gradio_queue, launch, launch_options, max_followers
from svd_core.web.zero_gpu import run_on_zero_gpu

if TYPE_CHECKING:
    from svd_core.cluster.pool import WorkerPool

TURN_S = 0.0005
"""Seconds after which the working thread yields the interpreter. Each step of a response waits for
that, and Python's default is 5 ms."""

SWEEP_S = 600.0
"""Seconds between two sweeps of expired jobs and uploads."""

TEMP_SWEEP_S = 5.0
"""Seconds between two sweeps of temporary files, which any visitor can send without requesting a
video, and of photos."""


def open_engine(settings: Settings) -> Engine:
    acceleration = AccelerationConfig.from_settings(settings)
    return SvdEngine(settings.model, settings.offload, acceleration=acceleration)


def main(make_engine: Callable[[Settings], Engine] = open_engine) -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    sys.setswitchinterval(TURN_S)
    os.umask(0o077)  # other users of the machine must not read photos and videos
    settings = Settings.from_env()
    descriptors = raise_descriptor_limit()
    data, keep_bytes = settings.data_dir, settings.keep_gb * 1e9
    results = ResultStore(private_folder(data / "results"))
    temp = TempFolder(temp_path(settings), settings.keep_hours * 3600, keep_bytes)
    parts = ApiContext(settings, results, reachable_locally_only())
    database = Database(settings.job_table)
    owner = OwnerLock.of(database, data, end_process)
    table = JobTable(database)
    limits = QueueLimits(settings.max_queue, settings.max_queue_per_key)
    context = QueueContext(table, limits, parts.fetcher.photo)
    zero_gpu, pool, engine = on_zero_gpu(), None, None
    status: Callable[[], EngineStatus]
    queue: JobQueue
    if settings.cluster:
        pool, executors = build_pool(settings, results)
        status = partial(getattr, pool, "status")
        queue = WorkerQueue(executors, context)
    else:
        engine = make_engine(settings)
        status = partial(getattr, engine, "status")
        if zero_gpu:
            warm_up(engine, stop)  # each call would repeat what is loaded after the launch
        queue = build_queue(context, engine, results, inline=zero_gpu)

    def take_over() -> Listener:
        """Wait until this process owns the table. All else is ready, so a standby is quick."""
        if not owner.acquire(stop, lambda sentence: print(sentence, flush=True)):
            sys.exit(0)
        create_tables(database)
        table.import_photos(data / "photos")
        listener = ListenAddress.from_env().bind()
        if pool is not None:
            pool.start(queue.length)
        queue.start()
        return listener

    service = ApiService(parts, queue, status, watch if zero_gpu else lambda _: None)
    retention = Retention(table, parts.results, settings.keep_hours, settings.keep_gb)
    backend = Backend(
        queue,
        status,
        parts.results,
        retention.remove,
        AccelerationConfig.from_settings(settings),
        CostLimits.from_settings(settings),
        AddressQuota(settings.max_queue_per_address),
        SessionIds(
            load_secret(settings.data_dir / "secrets" / "visitors"),
            lambda owner: bool(queue.of_owner(owner)),
        ),
    )
    page = build_page(backend, ASSETS / "examples", max_followers(settings))
    configure_gradio_queue(page, settings)
    options = launch_options(settings, parts.results.folder, build_api(service))
    launch(page, take_over, options)
    outbox = Outbox(table, queue.get, parts.send_webhook)
    limit = connection_limit(settings.max_connections, descriptors)
    limit_connections(page.server.config, limit)
    print(f"Serving {page.local_url}", flush=True)
    has_jobs = bool(table.open_jobs())  # then the first one loads its checkpoint
    if engine and not zero_gpu and not has_jobs:
        args = (engine, stop)
        threading.Thread(target=warm_up, args=args, name="svd-warm-up", daemon=True).start()
    sweeping = (stop, TEMP_SWEEP_S, temp.sweep, retention.sweep_photos)
    threading.Thread(target=keep_house, args=sweeping, name="svd-temp", daemon=True).start()
    keep_house(stop, SWEEP_S, retention.sweep, parts.uploads.sweep)
    queue.close()
    if pool is not None:
        pool.close()
    outbox.close()
    page.close(verbose=False)
    database.close()
    owner.close()


def build_queue(
    context: QueueContext, engine: Engine, results: ResultStore, *, inline: bool
) -> JobQueue:
    """The one queue of page and API. `inline`: watchers do the work with their own GPU."""

    def work(job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        try:
            return generate(request, engine, results, job_id, on_progress)
        except DeviceLost as error:
            if not inline:  # on ZeroGPU each video has its own process
                end_process(error.message)
            raise

    def seconds(request: VideoRequest) -> int:
        continues = request.continues is not None
        return zero_gpu_seconds(engine.status.checkpoint, request.params, continues)

    return (
        InlineQueue(run_on_zero_gpu(work, seconds), context)
        if inline
        else WorkerQueue([LocalExecutor(work)], context)
    )


def build_pool(settings: Settings, results: ResultStore) -> "tuple[WorkerPool, list[Executor]]":
    """The GPU workers of a cluster, which they join when the pool starts, and their executors."""
    prepare_environment(config := ClusterConfig.from_settings(settings))
    from svd_core.cluster.executor import RayExecutor  # imports Ray, which reads the environment
    from svd_core.cluster.pool import WorkerPool
    from svd_core.cluster.worker import WorkerSettings

    pool = WorkerPool(config, WorkerSettings.from_settings(settings), on_end=end_process)
    return pool, [RayExecutor(pool, results) for _ in range(config.most)]


def end_process(reason: str) -> None:
    """End this process at once with the sentence `reason`, so that a supervisor restarts it.

    As after a crash, the next process returns the running job to its place in line and counts the
    attempt.
    """
    print(reason, file=sys.stderr, flush=True)
    os._exit(1)


def watch(job: Job) -> None:
    """Watch a job to its end in a thread; without a watcher it would never start."""

    def run() -> None:
        with suppress(SvdError):  # the server stops
            deque(job.events(), maxlen=0)

    threading.Thread(target=run, name="svd-watcher", daemon=True).start()


def keep_house(stop: threading.Event, every_s: float, *sweeps: Callable[[], object]) -> None:
    """Run `sweeps` every `every_s` seconds until `stop` is set."""
    while True:
        for sweep in sweeps:
            with suppress(SvdError, OSError):  # the next try may succeed
                sweep()
        if stop.wait(every_s):
            return


def warm_up(engine: Engine, stop: threading.Event) -> None:
    """Load the model before the first request. Errors show in `engine.status`."""

    def on_progress(_: Progress) -> None:
        if stop.is_set():
            raise Cancelled

    try:
        engine.load(on_progress)
    except DeviceLost as error:
        end_process(error.message)
    except SvdError:
        pass


if __name__ == "__main__":
    try:
        main()
    except SvdError as error:
        sys.exit(str(error))
