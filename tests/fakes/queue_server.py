"""A server's queue as a process of its own, to be killed at any moment.

It works on the job table in a folder, where it writes down each job it begins and each address it
asks for a photo, which stays silent until there is a file of the address's last part. Webhooks are
sent by POST, or written down in a file. The photo's bytes say what the work is: `hold` stays in a
step until there is a file `go`, `encode` takes a while to write its video, `bad` fails, `die` ends
the process.
"""

import multiprocessing
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np

from svd_core.errors import InvalidImage
from svd_core.events import OnProgress, Progress, Stage, Video
from svd_core.jobs import Job, LocalExecutor, Outbox, QueueContext, QueueLimits, WorkerQueue
from svd_core.jobs.webhook_outbox import RetryPolicy
from svd_core.media.video import write_mp4
from svd_core.params import VideoRequest
from svd_core.storage import PhotoStore, ResultStore
from tests.fakes.work import moving, open_table

QUICK = QueueLimits(max_queue=1000, lease_s=600.0, poll_interval_s=0.05)


@contextmanager
def server(folder: Path) -> Iterator[ForkServerProcess]:
    """One that is ready for work; killed at the end, if it is not dead by then."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=main, args=(folder, theirs))
    process.start()
    theirs.close()
    try:
        assert ours.recv() == "ready"
        yield process
    finally:
        process.kill()
        process.join()
        process.close()
        ours.close()


def main(folder: Path, told: Connection) -> None:
    store, ready = ResultStore(folder / "results"), threading.Event()

    def work(job_id: str, request: VideoRequest, on_progress: OnProgress) -> Video:
        with (folder / "begun").open("a") as begun:
            begun.write(f"{job_id}\n")
        on_progress(Progress(stage=Stage.DENOISING, step=1, total=2))
        while request.image == b"hold" and not (folder / "go").exists():
            time.sleep(0.01)
            on_progress(Progress(stage=Stage.DENOISING, step=2, total=2))
        if request.image == b"bad":
            raise InvalidImage("The photo is broken; please send another one.")
        if request.image == b"die":
            ready.wait()  # so that the parent process knows before
            os.kill(os.getpid(), signal.SIGKILL)
        on_progress(Progress(stage=Stage.WRITING))
        frames = np.tile(moving(), (100 if request.image == b"encode" else 1, 1, 1, 1))
        path = write_mp4(frames, store.path(job_id), 7, comment="{}")
        return Video(
            path=path, width=128, height=72, num_frames=len(frames), fps=7, seed=1, model="fake",
            elapsed_s=1.0,
        )  # fmt: skip

    def fetch(url: str) -> bytes:
        with (folder / "asked").open("a") as asked:
            asked.write(f"{url}\n")
        while not (folder / url.rpartition("/")[2]).exists():
            time.sleep(0.01)
        return b"fetched"

    def send(job: Job, url: str) -> None:
        if url.startswith("file:"):
            with Path(url.removeprefix("file:")).open("a") as heard:
                heard.write(f"{job.id} {type(job.last).__name__}\n")
            return
        call = urllib.request.Request(url, data=job.id.encode(), method="POST")
        urllib.request.urlopen(call, timeout=5).close()

    with open_table(folder) as table:
        queue = WorkerQueue(
            [LocalExecutor(work)], QueueContext(table, PhotoStore(folder / "photos"), QUICK, fetch)
        )
        outbox = Outbox(table, queue.refresh, send, RetryPolicy(first_s=0.2), poll_interval_s=0.05)
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        told.send("ready")
        ready.set()
        stop.wait()
        outbox.close()
        queue.close()
