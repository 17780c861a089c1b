"""Nothing accepted is lost: servers are killed, the table is locked, disks are full."""

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from sqlalchemy import event

from svd_core.errors import GenerationFailed, QueueUnavailable, StorageFull
from svd_core.events import Failed, Progress, Stage, Succeeded, Video
from svd_core.jobs import (
    Cancellation,
    Job,
    LocalExecutor,
    QueueLimits,
    RemoteRequest,
    TableQueue,
    WorkerQueue,
)
from svd_core.media.ffmpeg import PART_SUFFIX
from svd_core.media.video import read_frames
from svd_core.params import VideoParams
from tests.fakes.job_events import SECONDS, ending, eventually, reached, submit
from tests.fakes.queue_server import QUICK, server
from tests.fakes.work import FakeWork, front_queue, open_table, premises, worker_queue

ROOT = Path(__file__).parents[2]


@pytest.fixture
def front(tmp_path: Path) -> Iterator[TableQueue]:
    """A server without a worker, on the same table: it outlives the others and sees all."""
    with front_queue(tmp_path, QUICK) as queue:
        yield queue


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().split()


def begun(folder: Path) -> list[str]:
    return (folder / "begun").read_text().split()


def test_killed_with_jobs_running_and_waiting(front: TableQueue, tmp_path: Path) -> None:
    with server(tmp_path) as first:
        jobs = [submit(front, b"hold"), submit(front, b""), submit(front, b"")]
        eventually(reached(jobs[0], Stage.DENOISING))
        first.kill()
        first.join()
    assert [front.position(job.id) for job in jobs] == [0, 1, 2]
    (tmp_path / "go").touch()
    with server(tmp_path):
        ends = [ending(job) for job in jobs]
    assert begun(tmp_path) == [jobs[0].id, *(job.id for job in jobs)]
    for end in ends:
        assert isinstance(end, Succeeded)
        assert len(read_frames(end.video.path)) == 8
    notes = [e.event.note for e in jobs[0].events_since() if isinstance(e.event, Progress)]
    assert any("attempt 2 of 3" in note for note in notes if note)
    assert jobs[0].times.started is not None
    assert jobs[0].times.submitted <= jobs[0].times.started


def test_killed_while_encoding(front: TableQueue, tmp_path: Path) -> None:
    with server(tmp_path) as first:
        job = submit(front, b"encode")
        eventually(lambda: list((tmp_path / "results").glob(f"*{PART_SUFFIX}")))
        first.kill()
        first.join()
    assert not job.done
    with server(tmp_path):
        end = ending(job)
    assert isinstance(end, Succeeded)
    assert len(read_frames(end.video.path)) == 800


def test_killed_while_photos_are_fetched(front: TableQueue, tmp_path: Path) -> None:
    """One is on its way, one is there, and both jobs wait for another."""
    with server(tmp_path) as first:
        holds = submit(front, b"hold")
        eventually(reached(holds))
        there, on_its_way = (
            front.submit(RemoteRequest(f"http://host/{name}", VideoParams(seed=1)))
            for name in ("there", "slow")
        )
        (tmp_path / "there").touch()
        eventually(lambda: len(front._open_jobs.without_image()) == 1)
        eventually(lambda: len(asked(tmp_path)) == 2)
        first.kill()
        first.join()
    assert [front.position(job.id) for job in (holds, there, on_its_way)] == [0, 1, 2]
    for name in ("slow", "go"):
        (tmp_path / name).touch()
    with server(tmp_path):
        for job in (holds, there, on_its_way):
            assert isinstance(ending(job), Succeeded)
    assert sorted(asked(tmp_path)) == ["http://host/slow", "http://host/slow", "http://host/there"]
    assert begun(tmp_path)[:2] == [holds.id, holds.id]
    assert sorted(begun(tmp_path)[2:]) == sorted([there.id, on_its_way.id])


def test_what_is_finished_is_there_after_a_kill(front: TableQueue, tmp_path: Path) -> None:
    with server(tmp_path) as first:
        job = submit(front, b"")
        end = ending(job)
        first.kill()
    with server(tmp_path):
        found = front.get(job.id)
        assert found.last == end
        assert found.times == job.times
        assert isinstance(end, Succeeded)
        assert end.video.path.stat().st_size > 1000
    assert begun(tmp_path) == [job.id]


def test_a_job_that_kills_its_server_ends_readably(front: TableQueue, tmp_path: Path) -> None:
    job, innocent = submit(front, b"die"), submit(front, b"")
    for _ in range(3):
        with server(tmp_path) as process:
            process.join(SECONDS)
            assert process.exitcode == -signal.SIGKILL
    with server(tmp_path):
        end = ending(job)
        assert isinstance(ending(innocent), Succeeded)
    assert isinstance(end, Failed)
    assert isinstance(end.error, GenerationFailed)
    assert "each of the 3 times" in str(end.error)
    assert begun(tmp_path) == [job.id] * 3 + [innocent.id]


@contextmanager
def receiver() -> Iterator[tuple[str, list[str], threading.Event]]:
    """A receiver of webhooks: its address, the ids it heard, and whether it answers."""
    heard: list[str] = []
    answers = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802 - the library's name
            heard.append(self.rfile.read(int(self.headers["content-length"])).decode())
            if answers.wait(SECONDS):
                self.send_response(200)
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    web = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{web.server_port}/", heard, answers
    finally:
        answers.set()
        web.shutdown()
        thread.join()
        web.server_close()


def test_killed_while_a_webhook_is_on_its_way(front: TableQueue, tmp_path: Path) -> None:
    with receiver() as (url, heard, answers):
        with server(tmp_path) as first:
            job = submit(front, b"", webhook=url)
            eventually(lambda: heard)  # and no answer yet
            first.kill()
            first.join()
        assert isinstance(ending(job), Succeeded)
        answers.set()
        with server(tmp_path):
            eventually(lambda: len(heard) == 2)
            time.sleep(0.5)  # more than a try takes
    assert heard == [job.id] * 2


def test_killed_before_a_webhook_is_sent(front: TableQueue, tmp_path: Path) -> None:
    with receiver() as (url, heard, answers):
        answers.set()
        job = submit(front, b"", webhook=url)
        job.cancel()  # ends here, where no outbox runs
        assert heard == []
        with server(tmp_path):
            eventually(lambda: heard)
    assert heard == [job.id]


def test_a_server_that_is_asked_to_stop_gives_its_job_back(
    front: TableQueue, tmp_path: Path
) -> None:
    with server(tmp_path) as first:
        job = submit(front, b"hold")
        eventually(reached(job, Stage.DENOISING))
        first.terminate()
        first.join(SECONDS)
        assert first.exitcode == 0
    eventually(lambda: job.times.started is None)
    (tmp_path / "go").touch()
    with server(tmp_path):
        assert isinstance(ending(job), Succeeded)
    assert list((tmp_path / "results").iterdir()) == [tmp_path / "results" / f"{job.id}.mp4"]


def test_a_running_job_of_another_server_can_be_cancelled(
    front: TableQueue, tmp_path: Path
) -> None:
    with server(tmp_path):
        job = submit(front, b"hold")
        eventually(reached(job, Stage.DENOISING))
        job.cancel()
        ending(job)
        assert isinstance(ending(submit(front, b"")), Succeeded)


def test_a_table_locked_for_5_s_is_waited_out(tmp_path: Path) -> None:
    work = FakeWork(tmp_path)
    with worker_queue(tmp_path, work) as queue, work.held():
        running = submit(queue, b"1")
        eventually(lambda: work.requests)
        other = sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        late: list[Job] = []
        thread = threading.Thread(target=lambda: late.append(submit(queue, b"2")))
        thread.start()
        begin = time.monotonic()
        work.go.set()  # the running one ends while nothing can be written down
        while time.monotonic() < begin + 5:
            look = time.monotonic()
            assert not running.done
            assert queue.get(running.id).times.started is not None
            assert queue.position(running.id) == 0
            assert time.monotonic() - look < 0.5
            time.sleep(0.1)
        assert late == []
        other.execute("COMMIT")
        other.close()
        thread.join(SECONDS)
        assert isinstance(ending(running), Succeeded)
        assert isinstance(ending(late[0]), Succeeded)


def test_the_table_is_its_owners_alone(tmp_path: Path) -> None:
    """Also one of before that others may read, and what a killed server left beside it."""
    path = tmp_path / "jobs.sqlite"
    for name in ("jobs.sqlite", "jobs.sqlite-wal", "jobs.sqlite-shm"):
        (tmp_path / name).touch(mode=0o644)
    with front_queue(tmp_path) as queue:
        submit(queue, b"")
        files = list(tmp_path.glob(f"{path.name}*"))
        assert path in files
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_a_new_table_that_another_server_makes_ready_is_waited_for(tmp_path: Path) -> None:
    """SQLite refuses at once to change the mode of a file that another process will write to."""
    other = sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    leaving = threading.Timer(0.5, other.close)
    leaving.start()
    with front_queue(tmp_path) as queue:
        assert queue.length() == 0
    leaving.join()


def test_a_table_locked_for_longer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svd_core.jobs.database.BUSY_S", 0.2)
    with front_queue(tmp_path) as queue:
        refused: list[QueueUnavailable] = []

        def client() -> None:
            with pytest.raises(QueueUnavailable, match="try again shortly") as caught:
                submit(queue, b"")
            refused.append(caught.value)

        other = sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        begin = time.monotonic()
        clients = [threading.Thread(target=client) for _ in range(8)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join(SECONDS)
        assert time.monotonic() - begin < 1.5  # together, not one after the other
        assert [error.status for error in refused] == [503] * 8
        other.close()
        assert submit(queue, b"").cancel() is Cancellation.REMOVED


def test_a_full_disk_under_the_table_is_told_and_loses_no_ending(tmp_path: Path) -> None:
    full, go, much = threading.Event(), threading.Event(), "x" * 100_000
    begun: list[str] = []

    def work(job_id: str, *_: object) -> Video:
        begun.append(job_id)
        assert go.wait(SECONDS)
        raise GenerationFailed(much)

    def limit(connection: sqlite3.Connection, *_: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages if full.is_set() else 2**30}")

    with open_table(tmp_path) as table:
        event.listen(table.database._engine, "checkout", limit)
        queue = WorkerQueue(
            [LocalExecutor(work)], premises(table, tmp_path, QueueLimits(poll_interval_s=0.1))
        )
        running = submit(queue, b"1")
        eventually(lambda: running.times.started)
        full.set()
        with pytest.raises(StorageFull, match="no room left"):
            submit(queue, b"2", memo=much)
        go.set()
        time.sleep(0.3)  # by now the end would have been written
        assert not running.done
        full.clear()
        end = ending(running)
        queue.close()
    assert isinstance(end, Failed)
    assert str(end.error) == much
    assert begun == [running.id]  # minutes of work are not done twice for a full disk


def test_a_full_disk_under_the_results_is_a_readable_failure(tmp_path: Path) -> None:
    """With a real limit on the size of files, from the encoder up."""
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.fakes.work import FakeWork, worker_queue\n"
        "from tests.fakes.job_events import submit, ending\n"
        "folder = Path(sys.argv[1])\n"
        "class Small(FakeWork):\n"
        "    def __call__(self, *args):\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "        try:\n"
        "            return super().__call__(*args)\n"
        "        finally:\n"
        "            most = resource.RLIM_INFINITY\n"
        "            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))\n"
        "with worker_queue(folder, Small(folder)) as queue:\n"
        "    print(type(ending(submit(queue, b'1')).error).__name__)\n"
        "    print(ending(submit(queue, b'2')).error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
        timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kind, sentence = done.stdout.splitlines()
    assert kind == "StorageFull"
    assert "no room left on the disk for the video" in sentence
    assert not list(tmp_path.glob("*.mp4"))
