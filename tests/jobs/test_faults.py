"""Nothing accepted is lost: servers are killed, the table is locked, disks are full."""

import signal
import socket
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
    QueueContext,
    WorkerQueue,
)
from svd_core.jobs.schema import State
from svd_core.media.ffmpeg import PART_SUFFIX
from svd_core.media.video import read_frames
from svd_core.messages import Message
from tests.fakes.errors import has_code
from tests.fakes.job_events import SECONDS, ending, eventually, reached, submit
from tests.fakes.queue_server import ServerJob, server
from tests.fakes.work import FakeWork, front_queue, open_table, position, worker_queue

ROOT = Path(__file__).parents[2]


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().split()


def begun(folder: Path) -> list[str]:
    return (folder / "begun").read_text().split()


def notes(job: ServerJob) -> list[str]:
    return [e.event.note or "" for e in job.events_since() if isinstance(e.event, Progress)]


def test_killed_with_jobs_running_and_waiting(tmp_path: Path) -> None:
    with server(tmp_path) as first:
        ids = [first.submit(photo).id for photo in (b"hold", b"", b"")]
        eventually(reached(first.job(ids[0]), Stage.DENOISING))
        first.kill()
    with server(tmp_path) as second:
        jobs = [second.job(job_id) for job_id in ids]
        eventually(reached(jobs[0], Stage.DENOISING))
        assert [job.position for job in jobs] == [0, 1, 2]
        (tmp_path / "go").touch()
        ends = [ending(job) for job in jobs]
        assert begun(tmp_path) == [ids[0], *ids]
        for end in ends:
            assert isinstance(end, Succeeded)
            assert len(read_frames(end.video.path)) == 8
        assert any("attempt 2 of 3" in note for note in notes(jobs[0]))
        times = jobs[0].times
    assert times.started is not None
    assert times.submitted <= times.started


def test_killed_with_nothing_but_waiting_jobs(tmp_path: Path) -> None:
    """The one that would run first waits for its photo, and behind it the order stays."""
    with server(tmp_path) as first:
        ids = [first.submit("http://host/go").id, first.submit("http://host/go").id]
        eventually(lambda: len(asked(tmp_path)) == 2)
        first.kill()
    assert not (tmp_path / "begun").exists()
    (tmp_path / "go").touch()
    with server(tmp_path) as second:
        for job_id in ids:
            assert isinstance(ending(second.job(job_id)), Succeeded)
    assert sorted(begun(tmp_path)) == sorted(ids)


def test_killed_while_encoding(tmp_path: Path) -> None:
    with server(tmp_path) as first:
        job_id = first.submit(b"encode").id
        eventually(lambda: list((tmp_path / "results").glob(f"*{PART_SUFFIX}")))
        assert not first.job(job_id).done
        first.kill()
    with server(tmp_path) as second:
        end = ending(second.job(job_id))
    assert isinstance(end, Succeeded)
    assert len(read_frames(end.video.path)) == 800


def test_killed_while_photos_are_fetched(tmp_path: Path) -> None:
    """One is on its way, one is there, and both jobs wait for another."""
    with server(tmp_path) as first:
        holds = first.submit(b"hold")
        eventually(reached(holds))
        there, on_its_way = (first.submit(f"http://host/{name}") for name in ("there", "slow"))
        (tmp_path / "there").touch()
        eventually(lambda: there.has_photo)
        eventually(lambda: len(asked(tmp_path)) == 2)
        first.kill()
    ids = [job.id for job in (holds, there, on_its_way)]
    with server(tmp_path) as second:
        jobs = [second.job(job_id) for job_id in ids]
        eventually(reached(jobs[0], Stage.DENOISING))
        assert [job.position for job in jobs] == [0, 1, 2]
        for name in ("slow", "go"):
            (tmp_path / name).touch()
        for job in jobs:
            assert isinstance(ending(job), Succeeded)
    assert sorted(asked(tmp_path)) == ["http://host/slow", "http://host/slow", "http://host/there"]
    assert begun(tmp_path)[:2] == [holds.id, holds.id]
    assert sorted(begun(tmp_path)[2:]) == sorted([there.id, on_its_way.id])


def test_what_is_finished_is_there_after_a_kill(tmp_path: Path) -> None:
    with server(tmp_path) as first:
        job = first.submit(b"")
        end, times = ending(job), job.times
        first.kill()
    with server(tmp_path) as second:
        found = second.job(job.id)
        assert found.last == end
        assert found.times == times
        assert isinstance(end, Succeeded)
        assert end.video.path.stat().st_size > 1000
    assert begun(tmp_path) == [job.id]


def test_a_job_that_kills_its_server_ends_readably(tmp_path: Path) -> None:
    with server(tmp_path) as first:
        job, innocent = first.submit(b"die").id, first.submit(b"").id
        (tmp_path / "go").touch()
        first.process.join(SECONDS)
        assert first.process.exitcode == -signal.SIGKILL
    for _ in range(2):
        with server(tmp_path) as next_one:
            next_one.process.join(SECONDS)
            assert next_one.process.exitcode == -signal.SIGKILL
    with server(tmp_path) as last:
        end = ending(last.job(job))
        assert isinstance(ending(last.job(innocent)), Succeeded)
    assert isinstance(end, Failed)
    assert isinstance(end.error, GenerationFailed)
    assert has_code("crash_loop", count=3)(end.error)
    assert begun(tmp_path) == [job] * 3 + [innocent]


def test_who_polls_hears_of_what_comes_after_a_crash(tmp_path: Path) -> None:
    with server(tmp_path) as first:
        runs, waits = first.submit(b"hold"), first.submit(b"")
        eventually(lambda: runs.events_since()[-1].number > 17)
        seen = [job.events_since()[-1].number for job in (runs, waits)]
        first.kill()
    with server(tmp_path) as second:
        for job, number in zip((runs, waits), seen, strict=True):
            assert second.job(job.id).events_since(number)


def test_a_standby_takes_over_what_a_killed_server_leaves(tmp_path: Path) -> None:
    with server(tmp_path) as first:
        ids = [first.submit(photo).id for photo in (b"hold", b"", b"")]
        eventually(reached(first.job(ids[0]), Stage.DENOISING))
        with server(tmp_path) as second:
            assert str(tmp_path) in second.first_words
            assert "This one waits" in second.first_words
            first.kill()
            second.wait_until_ready()
            jobs = [second.job(job_id) for job_id in ids]
            eventually(reached(jobs[0], Stage.DENOISING))
            assert [job.position for job in jobs] == [0, 1, 2]
            (tmp_path / "go").touch()
            for job in jobs:
                assert isinstance(ending(job), Succeeded)
    assert begun(tmp_path) == [ids[0], *ids]


def test_a_standby_takes_over_from_a_server_that_stops(tmp_path: Path) -> None:
    with server(tmp_path) as first, server(tmp_path) as second:
        assert second.first_words != "ready"
        job_id = first.submit(b"hold").id
        eventually(reached(first.job(job_id), Stage.DENOISING))
        assert first.stop() == 0
        second.wait_until_ready()
        (tmp_path / "go").touch()
        job = second.job(job_id)
        assert isinstance(ending(job), Succeeded)
        assert not any("attempt" in note for note in notes(job))


def test_a_standby_that_is_stopped_has_touched_nothing(tmp_path: Path) -> None:
    with server(tmp_path) as first, server(tmp_path) as second:
        job = first.submit(b"hold")
        eventually(reached(job, Stage.DENOISING))
        assert second.stop() == 0
        (tmp_path / "go").touch()
        assert isinstance(ending(job), Succeeded)
    assert begun(tmp_path) == [job.id]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextmanager
def receiver(port: int = 0) -> Iterator[tuple[str, list[str], threading.Event]]:
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

    web = HTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{web.server_port}/", heard, answers
    finally:
        answers.set()
        web.shutdown()
        thread.join()
        web.server_close()


def test_killed_while_a_webhook_is_on_its_way(tmp_path: Path) -> None:
    with receiver() as (url, heard, answers):
        with server(tmp_path) as first:
            job = first.submit(b"", webhook=url)
            eventually(lambda: heard)  # and no answer yet
            assert isinstance(ending(job), Succeeded)
            first.kill()
        answers.set()
        with server(tmp_path):
            eventually(lambda: len(heard) == 2)
            time.sleep(0.5)  # more than a try takes
    assert heard == [job.id] * 2


def test_killed_while_a_webhook_is_due(tmp_path: Path) -> None:
    """Its receiver does not answer yet, so there will be another try."""
    port = free_port()
    with server(tmp_path) as first:
        job = first.submit(b"", webhook=f"http://127.0.0.1:{port}/")
        assert isinstance(ending(job), Succeeded)
        first.kill()
    with receiver(port) as (_, heard, answers):
        answers.set()
        with server(tmp_path):
            eventually(lambda: heard)
    assert heard == [job.id]


def test_stopped_before_a_webhook_is_sent(tmp_path: Path) -> None:
    with receiver() as (url, heard, answers):
        answers.set()
        with front_queue(tmp_path) as front:  # no outbox runs here
            job = submit(front, b"", webhook=url)
            job.cancel()
        assert heard == []
        with server(tmp_path):
            eventually(lambda: heard)
    assert heard == [job.id]


def test_a_server_that_is_asked_to_stop_gives_its_job_back(tmp_path: Path) -> None:
    with server(tmp_path) as first:
        job_id = first.submit(b"hold").id
        eventually(reached(first.job(job_id), Stage.DENOISING))
        assert first.stop() == 0
    with open_table(tmp_path) as table:
        row = table.get(job_id)
    assert row is not None
    assert (row.state, row.attempt, row.started) == (State.WAITING, 0, None)
    (tmp_path / "go").touch()
    with server(tmp_path) as second:
        assert isinstance(ending(second.job(job_id)), Succeeded)
    assert list((tmp_path / "results").iterdir()) == [tmp_path / "results" / f"{job_id}.mp4"]


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
            assert position(running) == 0
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


def test_a_table_locked_for_longer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svd_core.database.BUSY_S", 0.2)
    with front_queue(tmp_path) as queue:
        refused: list[QueueUnavailable] = []

        def client() -> None:
            with pytest.raises(QueueUnavailable, check=has_code("queue_unavailable")) as caught:
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
        raise GenerationFailed("model_failed", reason=much)

    def limit(connection: sqlite3.Connection, *_: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages if full.is_set() else 2**30}")

    with open_table(tmp_path) as table:
        event.listen(table.database._engine, "checkout", limit)
        queue = WorkerQueue([LocalExecutor(work)], QueueContext(table)).start()
        running = submit(queue, b"1")
        eventually(lambda: running.times.started)
        full.set()
        with pytest.raises(StorageFull, check=has_code("database_disk_full")):
            submit(queue, b"2", memo=much)
        go.set()
        time.sleep(0.3)  # by now the end would have been written
        assert not running.done
        full.clear()
        end = ending(running)
        queue.close()
    assert isinstance(end, Failed)
    assert has_code("model_failed", reason=much)(end.error)
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
    assert sentence == Message("video_disk_full")
    assert not list(tmp_path.glob("*.mp4"))
