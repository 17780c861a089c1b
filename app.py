"""Starts the page: settings -> store -> engine -> queue -> page. Nothing else builds."""
# ruff: noqa: E402 - signals and environment come before the imports, which take seconds

import os
import signal
import sys
import threading
from contextlib import suppress

# Ctrl-C and SIGTERM end the process politely from its first line on; `main` takes over later.
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: sys.exit(0))
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

with suppress(ImportError):
    import spaces  # noqa: F401 - ZeroGPU wants it before torch; elsewhere it does nothing

from svd_core.engine import Engine, SvdEngine
from svd_core.errors import Cancelled, SvdError
from svd_core.events import OnProgress, Progress, Video
from svd_core.generate import generate
from svd_core.jobs import (
    Database,
    InlineQueue,
    JobQueue,
    JobTable,
    Limits,
    Retention,
    WorkerQueue,
)
from svd_core.models import ASSETS
from svd_core.pace import zero_gpu_seconds
from svd_core.params import VideoParams, VideoRequest
from svd_core.settings import Settings, on_zero_gpu
from svd_core.storage import PhotoStore, ResultStore
from svd_core.web.page import build_page
from svd_core.web.server import launch_options, watchers
from svd_core.web.zero_gpu import lent

SWEEP_S = 600.0
"""Seconds between two looks at what is too old to be kept."""


def main() -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    settings = Settings.from_env()
    store = ResultStore(settings.data_dir / "results")
    photos = PhotoStore(settings.data_dir / "photos")
    database = Database(settings.job_table)
    table = JobTable(database)
    retention = Retention(table, store, photos, settings.keep_hours, settings.keep_gb)
    engine = SvdEngine(settings.model, settings.offload)

    def work(job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        return generate(request, engine, store, job_id, on_progress)

    def seconds(params: VideoParams) -> int:
        return zero_gpu_seconds(engine.status.checkpoint, params)

    limits = Limits(settings.max_queue, settings.max_queue_per_key)
    queue: JobQueue
    if zero_gpu := on_zero_gpu():
        warm_up(engine, stop)  # here and now: what comes after the launch, each call does again
        queue = InlineQueue(lent(work, seconds), table, photos, limits)
    else:
        queue = WorkerQueue(work, table, photos, limits)
    page = build_page(queue, lambda: engine.status, ASSETS / "examples", watchers(settings))
    page.queue(max_size=settings.max_queue)
    page.launch(prevent_thread_lock=True, **launch_options(settings, store.folder))
    print(f"Serving {page.local_url}", flush=True)
    if not zero_gpu:
        args = (engine, stop)
        threading.Thread(target=warm_up, args=args, name="svd-warm-up", daemon=True).start()
    retention.sweep()
    while not stop.wait(SWEEP_S):
        with suppress(SvdError):  # a table that cannot be reached now may be the next time
            retention.sweep()
    queue.close()
    page.close(verbose=False)
    database.close()


def warm_up(engine: Engine, stop: threading.Event) -> None:
    """Load the model before anybody asks for it; what goes wrong shows in `engine.status`."""

    def on_progress(_: Progress) -> None:
        if stop.is_set():
            raise Cancelled

    with suppress(SvdError):
        engine.load(on_progress)


if __name__ == "__main__":
    try:
        main()
    except SvdError as error:
        sys.exit(str(error))
